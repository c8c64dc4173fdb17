"""The base of every other room: it imports nothing of the kit, and no torch.

Reading order: `completions` (the format of an answer), `prompts`, `statistics` (intervals by sub-category),
`images`, `files` and `hashing` (whole files and their hashes), `escaping` (tables and texts for people),
`plots`, `checkpoint_names`, `network`, `errors` (the one exception), `faces` (how a package offers its
names).
"""

from finer1_lib.core.faces import face

__getattr__, __all__ = face(__name__, {
    "completions": "normalise",
    "errors": "UserError",
    "escaping": "markdown styled write_csv",
    "files": "append_jsonl atomic_directory atomic_write_json atomic_write_text read_json read_jsonl",
    "images": "ImageFile load_image",
    "prompts": "PROMPTS question_for",
    "statistics": "clustered_mean paired_difference",
})
