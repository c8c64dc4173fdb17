"""Checks of the notebooks' exercises: one module a notebook, one function an exercise.

A check takes a student's answer (a value or a function) with what it needs of the notebook, and returns one
line. It knows the usual wrong answer and says what it is:

    >>> from finer1_lib.teaching import tapo
    >>> tapo.matched_budget(None, n_anchor=4, n_positive=4)
    'not tried yet'
    >>> tapo.matched_budget(4, n_anchor=4, n_positive=4)[:28]
    'not yet: the usual mistake: '

Nothing is raised for a wrong answer, so a notebook runs to its end with the exercises done, half done or not.

Source: our choice (the exercises of ARENA's courses are checked so).
"""


