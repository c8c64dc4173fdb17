"""The sentences that an encoder compares a picture with: one template, or several and their mean.

    >>> encoder_prompt("clip_photo", "bird").template
    'a photo of a {}, a type of bird.'
    >>> sentences("clip_photo", "bird", "Rock Wren")
    ['a photo of a Rock Wren, a type of bird.']

A record of an encoder holds the templates as its prompt, one a line with {} where the name goes, and their
hash. A super-category that nobody listed (a drawn one, a data set of one's own) is named like the others.

Source: `clip_photo` and the cars' templates are CLIP's published prompts (data/prompts.md of openai/CLIP:
FGVC Aircraft, Birdsnap, Stanford Cars, Flowers102, OxfordPets; it has none for CUB and Stanford Dogs, which
are worded alike). The paper does not say what it asked its encoders: `clip_ensemble` is our choice of forms
that CLIP lists for ImageNet, each with the super-category.
"""

from finer1_lib.errors import UserError
from finer1_lib.prompts import Prompt

KINDS = ("clip_photo", "clip_ensemble")
_PHOTO = "a photo of a {{}}, a type of {kind}."
_FORMS = (
    _PHOTO, "a photo of the {{}}, a type of {kind}.", "a good photo of a {{}}, a type of {kind}.",
    "a close-up photo of a {{}}, a type of {kind}.", "a cropped photo of a {{}}, a type of {kind}.",
    "a bright photo of a {{}}, a type of {kind}.", "a dark photo of a {{}}, a type of {kind}.",
    "a blurry photo of a {{}}, a type of {kind}.",
)  # fmt: skip
_CARS = (
    "a photo of a {}.", "a photo of the {}.", "a photo of my {}.", "i love my {}!", "a photo of my dirty {}.",
    "a photo of my clean {}.", "a photo of my new {}.", "a photo of my old {}.",
)  # fmt: skip


def templates(kind: str, super_category: str) -> tuple[str, ...]:
    """The templates of one kind for one super-category, each with one {}.

    Raises:
        UserError: an unknown kind.
    """
    if kind not in KINDS:
        raise UserError(f"prompts {kind!r}: an encoder takes one of {', '.join(KINDS)}")
    if super_category == "car":
        return _CARS if kind == "clip_ensemble" else _CARS[:1]
    forms = _FORMS if kind == "clip_ensemble" else (_PHOTO,)
    return tuple(form.format(kind=super_category) for form in forms)


def encoder_prompt(kind: str, super_category: str) -> Prompt:
    """The templates as a record names them: a prompt whose text is one template a line."""
    return Prompt(kind, "\n".join(templates(kind, super_category)))


def sentences(kind: str, super_category: str, name: str) -> list[str]:
    """The templates with a name filled in; what else the name holds stays as it is."""
    return [template.replace("{}", name) for template in templates(kind, super_category)]
