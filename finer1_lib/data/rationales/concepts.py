"""Concept selection: which short texts about a sub-category the image itself supports.

>>> import numpy
>>> D, N = numpy.array([[1.0, 0.0]]), numpy.array([[0.0, 1.0]])
>>> concepts = numpy.array([[1.0, 0.0], [0.0, 1.0]])      # one like D, one like N
>>> concept_scores(D, concepts, N, tau=1.0).round(4)      # log(e/(e+1)) and log(1/(1+e))
array([-0.3133, -1.3133])

A concept is kept when it is near the descriptions of this image (D) and far from those of others (N). Source:
Fine-R1 (arXiv 2602.07605), concept selection, after arXiv 2502.14044, whose code has the values below.
"""

from typing import Mapping, Sequence

from finer1_lib.core.faces import Later

numpy = Later("numpy")

TAU = 0.1
WIDTH = 0.4  # standard deviations above the mean
AT_LEAST = 3
# Function words only. scikit-learn's own English list also holds "bill", "back", "side", "top", "thick",
# "thin" and "full", which are what a description of a bird is made of.
STOP_WORDS = ("a an the this that these those it its their they is are was were be been being has have had "
              "with and or of in on at to for from by as which who whose there here very also most all image "
              "picture photo shows").split()


class TfidfEncoder:
    """Turns texts into unit vectors: TF-IDF over words and pairs of words ("red crown"). The paper names no
    encoder, and this one needs no download; another needs the same two methods.
    """

    _vectorizer = None

    def fit(self, texts: Sequence[str]) -> None:
        """Learn the vocabulary and the document frequencies; texts without words make every row zeros."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), stop_words=STOP_WORDS, token_pattern=r"(?u)\b\w+\b",
                                     norm="l2")
        words = vectorizer.build_analyzer()
        if not any(words(text) for text in texts):  # scikit-learn refuses an empty vocabulary
            vectorizer.set_params(vocabulary=["-"])
        self._vectorizer = vectorizer.fit(texts)

    def encode(self, texts: Sequence[str]) -> "numpy.ndarray":
        """(texts, vocabulary) unit rows, zeros for a text without a known word. Raises: RuntimeError: no fit."""
        if self._vectorizer is None:
            raise RuntimeError("fit the encoder before encoding")
        return self._vectorizer.transform(texts).toarray()


def concept_scores(descriptions: "numpy.ndarray", concepts: "numpy.ndarray", others: "numpy.ndarray",
                   tau: float = TAU) -> "numpy.ndarray":
    """(c,) scores <= 0; the larger, the better a concept distinguishes this image from the others:
    score(c) = sum over d in D of log(e^(d.c/tau) / (e^(d.c/tau) + sum over n in N of e^(c.n/tau))), with D
    `descriptions` of this image (d, k), N `others` (n, k), and `concepts` (c, k), all of unit rows. Raises:
    ValueError: D or N is empty.
    """
    if len(descriptions) == 0 or len(others) == 0:
        raise ValueError("concept scores need descriptions of this image and of others")
    own = descriptions @ concepts.T / tau  # (d, c)
    rest = numpy.logaddexp.reduce(others @ concepts.T / tau, axis=0)  # (c,)
    return (own - numpy.logaddexp(own, rest)).sum(axis=0)


def keep_concepts(scores: "numpy.ndarray", width: float = WIDTH, at_least: int = AT_LEAST) -> list[int]:
    """Indices of the concepts scoring above mean + width * std, best first, at least `at_least` of them. (The
    code of arXiv 2502.14044 does not say which standard deviation; this is the population's.)
    """
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    passed = sum(scores > scores.mean() + width * scores.std()) if len(scores) else 0
    return order[: max(int(passed), at_least)]


def select_concepts(descriptions: Mapping[str, Sequence[str]], concepts: Mapping[str, Sequence[str]],
                    encoder: TfidfEncoder) -> dict[str, list[dict]]:
    """The concepts of every image of one super-category: image_id -> [{"concept", "score", "kept"}, best
    first]. The mappings hold an image's texts (N of an image is all others'); the encoder is fitted here.
    """
    chosen: dict[str, list[dict]] = {image_id: [] for image_id in descriptions}
    if not any(concepts.values()):
        return chosen
    texts = [text for image_id in descriptions for text in descriptions[image_id]]
    owners = numpy.array([image_id for image_id in descriptions for _ in descriptions[image_id]])
    encoder.fit(texts + [text for image_id in concepts for text in concepts[image_id]])
    vectors = encoder.encode(texts)
    for image_id in descriptions:
        if not (unique := list(dict.fromkeys(concepts[image_id]))):
            continue
        own = owners == image_id
        scores = concept_scores(vectors[own], encoder.encode(unique), vectors[~own])
        kept = keep_concepts(scores)
        order = kept + [index for index in numpy.argsort(-scores, kind="stable") if index not in kept]
        chosen[image_id] = [
            {"concept": unique[index], "score": float(scores[index]), "kept": rank < len(kept)}
            for rank, index in enumerate(order)]
    return chosen
