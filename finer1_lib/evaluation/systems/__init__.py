"""Systems: who can be asked, and how each of them is asked."""


