"""The paper's six data sets: facts, name rules, readers of their archives and of their Hub copies."""


