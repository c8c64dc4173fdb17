"""Relative semantic similarity: how near an answer is to the label, beside the super-category's word.

    unclipped = (Sim(answer, label) - Sim(word, label)) / (1 - Sim(word, label))       SS = max(0, unclipped)

1 is the label, 0 no nearer than "bird". The paper clips at 0, which hides answers that are worse than the
word alone; the unclipped value shows them.

Source: METHOD 4, paper Section 4.1; audit B2 (the clip).
"""

from finer1_lib.scores.similarity import Similarity


def unclipped_similarity(similarity: Similarity, answer: str, label: str, standard: str) -> float:
    """The value before the clip: at most 1, and below 0 for an answer farther than the super-category's word.

    Where the word itself is as near as can be (Sim = 1, a label that is its super-category's word) the ratio
    is undefined; the value is then 1 for an answer equal to the label and 0 for any other.

    Source: the undefined case is our choice.
    """
    near, word = similarity(answer, label), similarity(standard, label)
    if word >= 1.0:
        return float(near >= 1.0)
    return (near - word) / (1.0 - word)


def relative_similarity(similarity: Similarity, answer: str, label: str, standard: str) -> float:
    """SS of one answer: 0 at the super-category's word or below it, 1 at the label."""
    return max(0.0, unclipped_similarity(similarity, answer, label, standard))
