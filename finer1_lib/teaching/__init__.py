"""Teaching in class: checks of the exercises, student copies, a lesson without training.

    exercises      three checks a notebook, each knows the usual mistake
    verdicts       what a check can say
    student_copy   notebooks without solutions (`finer1 student-copy`)
    lesson         notebooks 04 and 05 from kept records (`finer1 lesson`)
"""

from finer1_lib.core.faces import face

__getattr__, __all__ = face(__name__, {
    "student_copy": "find_notebooks student_copy write_copies", "lesson": "make_lesson"})
