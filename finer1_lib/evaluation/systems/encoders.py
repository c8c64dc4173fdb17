"""CLIP-like encoders as systems: the name whose sentence is nearest to the image, by cosine.

    answerer = open_encoder(find_systems(["siglip-l"])[0], image_root, {"bird": [...], "pet": [...]})
    answerer.answer(requests, max_new_tokens=0, seed=0)  # Generation("<answer>Rock Wren</answer>", 0, False)

In the closed world the four options are compared, under `all_labels` every sub-category of the item's
super-category. Each name is embedded once, as one sentence or as the ensemble (the mean of the sentences' unit
vectors, normalised), and an image is compared with all of them at once: the order of the options cannot
change an answer. Of equally near names the first of the alphabet is answered, and the completion lists all.
A record's prompt is the templates, one a line with {} for the name. Time is linear in images plus names.

    >>> sentences("clip_photo", "bird", "Rock Wren")
    ['a photo of a Rock Wren, a type of bird.']

Source: Fine-R1 (arXiv 2602.07605), Table 1 (CLIP-L, EVA-G, SigLIP-L, SigLIP2-L), which does not state its
sentences; prompt ensembles: Radford et al. 2021 (arXiv 2103.00020), Section 3.1.4; `clip_photo` and the cars'
templates: data/prompts.md of openai/CLIP (none for CUB and Stanford Dogs, which are worded alike).
`clip_ensemble` takes forms that CLIP lists for ImageNet, each with the super-category.
"""

from pathlib import Path
from typing import Any, Mapping, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.core.faces import Later
from finer1_lib.core.images import load_image
from finer1_lib.core.prompts import Prompt
from finer1_lib.models.vllm_engine import engine_version
from finer1_lib.models.encoders import BATCH, TOWERS
from finer1_lib.models.generation import Generation

numpy = Later("numpy")

KINDS = ("clip_photo", "clip_ensemble")
_PHOTO = "a photo of a {{}}, a type of {kind}."
_FORMS = (_PHOTO, "a photo of the {{}}, a type of {kind}.", *(
    f"a {adjective} photo of a {{{{}}}}, a type of {{kind}}."
    for adjective in ("good", "close-up", "cropped", "bright", "dark", "blurry")))
_CARS = ("a photo of a {}.", "a photo of the {}.", "a photo of my {}.", "i love my {}!", *(
    f"a photo of my {adjective} {{}}." for adjective in ("dirty", "clean", "new", "old")))


def templates(kind: str, super_category: str) -> tuple[str, ...]:
    """The templates of one kind for one super-category, each with one {}. Raises: UserError: unknown kind."""
    if kind not in KINDS:
        raise UserError(f"prompts {kind!r}: an encoder takes one of {', '.join(KINDS)}")
    forms = _CARS if super_category == "car" else [form.format(kind=super_category) for form in _FORMS]
    return tuple(forms if kind == "clip_ensemble" else forms[:1])


def encoder_prompt(kind: str, super_category: str) -> Prompt:
    """The templates as a record names them: a prompt whose text is one template a line."""
    return Prompt(kind, "\n".join(templates(kind, super_category)))


def sentences(kind: str, super_category: str, name: str) -> list[str]:
    """The templates with a name filled in; what else the name holds stays as it is."""
    return [template.replace("{}", name) for template in templates(kind, super_category)]


SETTINGS = ("closed_world", "all_labels")
TEXTS = 64  # sentences of one forward pass
KEPT = 40_000  # image vectors held, so that another order of the options costs no forward pass: 0.2 GB


class Encoder:
    """Answers by cosine: `answering.Answerer` for encoders.

    `towers` give the vectors (`models.encoders.TOWERS`), `name` is the system's, `prompts` one of `KINDS`,
    `labels` every sub-category of each super-category, `batch_size` the images opened at a time.
    """

    def __init__(self, towers: Any, name: str, prompts: str, image_root: "str | Path",
                 labels: Mapping[str, Sequence[str]], batch_size: int = BATCH) -> None:
        self._towers, self._name, self._prompts, self._root = towers, name, prompts, image_root
        self._batch_size, self.engine = batch_size, "encoder"
        self._names = {word: sorted(set(names)) for word, names in labels.items()}
        self._vectors: dict[str, Any] = {}
        self._images: dict[str, Any] = {}
        for word in self._names:
            templates(prompts, word)  # an unknown kind is refused before images are read

    def answer(self, requests: Sequence[Mapping], *, max_new_tokens: int = 0, seed: int = 0) -> list[Generation]:
        """The nearest name for each request, in their order; nothing is generated or drawn.

        Raises: UserError: another setting than `SETTINGS`, a super-category or an option that is not among
        the labels, an unreadable image, or vectors that are not finite.
        """
        offered = [self._offered(request) for request in requests]
        self._read([request["image_id"] for request in requests])
        answers = []
        for request, names in zip(requests, offered):
            word = request["super_category"]
            cosines = self._label_vectors(word) @ self._images[request["image_id"]]
            near = dict(zip(self._names[word], cosines))
            best = max(near[name] for name in names)
            first, *others = sorted(name for name in names if near[name] == best)
            tie = f"Equally near: {', '.join([first, *others])}.\n" if others else ""
            answers.append(Generation(f"{tie}<answer>{first}</answer>", 0, False))
        for image_id in list(self._images)[: max(0, len(self._images) - KEPT)]:  # the oldest
            del self._images[image_id]
        return answers

    def _offered(self, request: Mapping) -> list[str]:
        """The names that a request lets the encoder choose from."""
        word, setting = request["super_category"], request["setting"]
        if setting not in SETTINGS:
            raise UserError(f"{self._name} is an encoder: it chooses among names, so query it in "
                            f"{' or '.join(SETTINGS)}, not in {setting}")
        if word not in self._names:
            raise UserError(f"{self._name}: no sub-categories of {word!r} were given to choose from")
        if setting == "all_labels":
            return self._names[word]
        if foreign := sorted(set(request["options"]) - set(self._names[word])):
            raise UserError(f"{self._name}: the option {foreign[0]!r} of {request['item_id']} is none of the "
                            f"{len(self._names[word])} sub-categories of {word!r}")
        return list(request["options"])

    def _label_vectors(self, word: str) -> "numpy.ndarray":
        """(names, width) unit vectors of a super-category's names, embedded at first use."""
        if word not in self._vectors:
            texts = [text for name in self._names[word] for text in sentences(self._prompts, word, name)]
            rows = [self._towers.texts(texts[start : start + TEXTS]) for start in range(0, len(texts), TEXTS)]
            each = _unit(numpy.concatenate(rows), f"{self._name}: text vectors")
            several = each.reshape(len(self._names[word]), -1, each.shape[1])
            self._vectors[word] = _unit(several.mean(axis=1), f"{self._name}: text vectors")
        return self._vectors[word]

    def _read(self, image_ids: Sequence[str]) -> None:
        """Embed the images that are not held."""
        new = [image_id for image_id in dict.fromkeys(image_ids) if image_id not in self._images]
        for start in range(0, len(new), self._batch_size):  # photographs are large: a few at a time
            some = new[start : start + self._batch_size]
            found = self._towers.pictures([load_image(self._root, image_id) for image_id in some])
            self._images.update(zip(some, _unit(found, f"{self._name}: image vectors")))


def open_encoder(system: Any, image_root: "str | Path", labels: Mapping[str, Sequence[str]], *,
                 device: str = "auto", batch_size: int = BATCH) -> Encoder:
    """An encoder of the registry (`systems.registry.System`), loaded; arguments as of `Encoder`.

    Raises: UserError: an unknown library, a bad batch size, or a checkpoint that the towers refuse.
    """
    if system.library not in TOWERS:
        raise UserError(f"{system.name}: library {system.library!r} is not one of {', '.join(TOWERS)}")
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}: give a positive number")
    towers = TOWERS[system.library](system.checkpoint, device, batch_size)
    encoder = Encoder(towers, system.name, system.prompts, image_root, labels, batch_size)
    encoder.engine = engine_version(system.library)
    return encoder


def _unit(rows: "numpy.ndarray", what: str, least: float = 1e-12) -> "numpy.ndarray":
    """Rows of length 1."""
    length = numpy.linalg.norm(rows, axis=-1, keepdims=True)
    if not numpy.isfinite(rows).all() or (length < least).any():
        raise UserError(f"{what} are not finite or zero: choose another checkpoint")
    return (rows / length).astype("float32")
