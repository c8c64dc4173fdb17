"""report.html: one page of a run."""


