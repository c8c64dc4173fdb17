"""The report's figures: where each stands, what its caption says, and how it is packed into the page.

A figure is whatever PNG a finished stage left in its figures/; one that `CAPTIONS` does not know gets its
name and stands with the others of its stage. Packed means: a palette of 256 colours where that cannot be seen
(lines and text, about a third of the size), WebP where it could (pictures). The files on the disk stay as
they are.

Source: our choice.
"""

import base64
import io
from pathlib import Path
from typing import Any, Iterable, NamedTuple

from finer1_lib.core.errors import UserError

SECTIONS = ("results", "differences", "traces", "probing", "training", "stage1", "data", "world")
_STAGE_SECTION = {
    "00_miniature_world": "world", "01_data": "data", "02_cot_sft": "stage1", "03_tapo": "training",
    "04_evaluation": "results", "05_probing": "probing",
}  # fmt: skip
_TRACES = ("trace_right", "trace_words", "trace_shares", "wrong_steps", "trace_flow", "reading_and_use")
_PIXELS = 76 / 150  # of the page, for each of a file: 13 inches at 150 dpi fill the text's width
_VISIBLE = 0.5  # mean change of a colour value (of 255) beyond which a palette is not used


class Caption(NamedTuple):
    """What a figure is (its alternative text, too), and what to see in it."""

    title: str
    see: str


CAPTIONS: dict[str, Caption] = {
    # 04
    "main_table": Caption(
        "Right answers of every model, strict scorer: bars with 95 % intervals",
        "Closed world above, open world below; seen sub-categories left, unseen right. Look for models whose"
        " bars fall from left to right, and for intervals that part."),
    "data_sets_accuracy": Caption(
        "Closed world, each data set by itself",
        "Does the order of the models hold in every data set? The average hides where it does not."),
    "data_sets_text_inclusion": Caption(
        "Open world, each data set by itself",
        "Does the order of the models hold in every data set? The average hides where it does not."),
    "position_closed_world": Caption(
        "Closed world by the place of the truth among the options",
        "A level line looks at the picture; one that rises or falls leans on a place."),
    "length_closed_world": Caption(
        "Closed world by the length of the answer, the same cuts for every model",
        "It describes and proves nothing: an answer that goes wrong may be long because it does."),
    "length_open_world": Caption(
        "Open world by the length of the answer, the same cuts for every model",
        "It describes and proves nothing: an answer that goes wrong may be long because it does."),
    "confusions": Caption(
        "Who is taken for whom among the neighbours of a genus",
        "Rows are truths, columns answers. A dark cell off the diagonal is one name taken for another; a dark"
        " column is a name that stands for the whole genus."),
    "figure_3a": Caption(
        "The paper's Figure 3a in this run's world: closed world, from zero-shot to TAPO",
        "Do they rise and fall as the paper's do (the orderings say)? The heights are this world's own."),
    "figure_3c": Caption(
        "The paper's Figure 3c in this run's world: open world, what each part of TAPO adds to CoT SFT",
        "Do they rise and fall as the paper's do (the orderings say)? The heights are this world's own."),
    "option_orders": Caption(
        "Closed world in each order of the options, with the control that always takes the first",
        "Where the truth stands first (diamonds) right of shuffled (circles), its place is worth so much;"
        " squares, if asked, count an item only if it is right in all four rotations."),
    "orderings": Caption(
        "The paper's orderings, and on which side of zero this run's differences lie",
        "The shaded half is the paper's side. An ordering holds, or is reversed, only where the whole"
        " interval lies on one side."),
    # 05, reasoning traces
    "trace_words": Caption("Length of each part of a trace, in words",
                           "Which part does training make longer or shorter?"),
    "trace_shares": Caption(
        "What traces hold: shares of readable parts, right readings and sound comparisons, with intervals",
        "Only the answer is rewarded: look which shares fall although the answers get better."),
    "wrong_steps": Caption(
        "Where wrong answers go wrong: the first step of the trace that leaves the truth",
        "The length of a bar is the share of wrong answers; its parts say at which step."),
    "trace_flow": Caption(
        "The same pictures before and after training: how many were mended, and from which step",
        "Follow the bands that end in right (mended) and those that begin there (broken)."),
    "reading_and_use": Caption(
        "The gain in accuracy in two parts: more attributes read, and more made of what is read",
        "Which of the two carries the gain? A bar whose interval crosses zero carries none for certain."),
    # 05, probing
    "h1_probe": Caption(
        "H1: sub-category told from the image's hidden states by a linear probe, with controls",
        "Bars of one height mean that training did not change what is seen; the controls belong near the"
        " floor."),
    "h2_genus_gap": Caption(
        "H2: how much nearer names of one genus lie to each other than to other names, a dot a name",
        "Clouds at one height mean that training did not change what is known of the names."),
    "h3_auc": Caption(
        "H3: whether the hidden state tells if a name fits the picture (AUC), with controls",
        "Guessing is 50. Without the picture nothing can be told; over another picture little should be."),
    "layers": Caption(
        "The three probes at every layer, with their controls",
        "Where does each curve leave its controls, and where do the models part? At layer 0 the last token of"
        " every question is the same, so H3 starts at guessing."),
    "reading_by_layer": Caption(
        "Attributes and sub-category by layer: at the image tokens and at the last token of the prompt",
        "How much of what the image tokens hold reaches the place where the answer starts?"),
    "attributes_images": Caption(
        "Each attribute by layer, at the image tokens",
        "The dotted line is guessing. What lies above it is there to be read."),
    "attributes_prompts": Caption(
        "Each attribute by layer, at the last token of the prompt",
        "Which attributes did training bring to where the answer starts, and which get lost on the way?"),
    "reading_or_use": Caption(
        "What training changed, at the layer of the summary: the reading or the use of what is read",
        "Each dot is a paired difference with its interval: above the line the reading, below it the use."),
    "h3_picture_best_layer": Caption(
        "H3: the same picture at a layer chosen on the other super-categories",
        "The layer was not chosen for looking well here; the AUC above each panel says how far apart the two"
        " clouds are."),
    "h3_picture": Caption(
        "H3: the states of right and wrong names in their first two principal components",
        "The paper shows such a picture. Two clouds that lie apart are told apart; the AUC says it in a"
        " number."),
    # 03
    "reward": Caption(
        "Training by reinforcement: reward, accuracy of rollouts and entropy over the optimizer steps",
        "Is the reward still rising at the end? Does the entropy stay in bounds?"),
    "seconds": Caption("Seconds of an optimizer step, by what they are spent on",
                       "What TAPO's second look at the negative costs stands in the update."),
    "wrong_turns": Caption(
        "Two wrong turns of training and the same runs set right",
        "A line that leaves its dotted strict twin games its reward; entropy and length that run away"
        " together are a policy that falls apart."),
    # 02
    "loss": Caption("Loss and gradient norm of stage 1 over the optimizer steps",
                    "Both fall; the two losses are of other texts, so their heights cannot be compared."),
    "forgetting": Caption(
        "What each way of fine-tuning made the base forget, and what it learnt",
        "Hollow: before. Filled: after, with 95 % intervals. Look for rows whose filled marker is far left."),
    # 01
    "montage": Caption("Pictures of seen and unseen sub-categories, with their names",
                       "What one genus has in common, and in what its sub-categories differ."),
    "rejections": Caption("Why rationales of the teacher were sent back", "Which flaw costs most texts?"),
    "prevented": Caption(
        "Flaws of the kept rationales with each step of their making on, and off",
        "The farther the hollow square lies right of the filled circle, the more that step prevents."),
    "rationale": Caption("One rationale of stage 1 beside its picture",
                         "The four parts: analysis, options, comparison, prediction."),
    "triplets": Caption("Triplets: anchor, positive and negative",
                        "Broken frame: the negative, the most alike picture of another seen sub-category."),
    # 00
    "one_genus": Caption(
        "One genus of the drawn world: a row of pictures a sub-category",
        "Bill and tail are the genus's; crown, back, breast and wings tell the names apart."),
    "attributes_read": Caption(
        "How often the base reads each attribute from a picture, with 95 % intervals",
        "All should lie right of the dotted line: the base sees; what it lacks is the name."),
}  # fmt: skip


def figures_of(run_dir: Path, stages: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """Every figure of these stages, once, by the section it stands in and in the order of `CAPTIONS`.

    Args:
        run_dir: folder of the run.
        stages: names of finished stages.

    Returns:
        {section: [{name, title, see, csv, source, width, height}]}; a key for each of `SECTIONS`. `source` is
        a data URI; width and height are pixels of the page; csv is "" where there is none.

    Raises:
        UserError: a figure that cannot be read.
    """
    found: dict[str, list[dict[str, Any]]] = {section: [] for section in SECTIONS}
    order = list(CAPTIONS)
    for stage in stages:
        for file in (run_dir / stage / "figures").glob("*.png"):
            title, see = CAPTIONS.get(file.stem, Caption(file.stem.replace("_", " "), ""))
            csv = f"{stage}/figures/{file.stem}.csv"
            found[_section(stage, file.stem)].append(
                {"name": f"{stage}/{file.stem}", "title": title, "see": see, **pack(file),
                 "csv": csv if (run_dir / csv).is_file() else ""}
            )
    for figures in found.values():
        figures.sort(key=lambda figure: (_rank(order, figure["name"].partition("/")[2]), figure["name"]))
    return found


def _rank(order: list[str], name: str) -> int:
    return order.index(name) if name in order else len(order)


def _section(stage: str, name: str) -> str:
    if stage == "04_evaluation" and name == "orderings":
        return "differences"
    return "traces" if name in _TRACES or name.startswith("trace_") else _STAGE_SECTION[stage]


def pack(file: Path) -> dict[str, Any]:
    """A PNG as a data URI of about a third of its size, and how large to show it.

    Returns:
        {source, width, height}.

    Raises:
        UserError: the file is no picture.
    """
    from PIL import Image, ImageChops, ImageStat

    try:
        with Image.open(file) as opened:
            picture = Image.new("RGB", opened.size, "white")
            picture.paste(opened, mask=opened.getchannel("A") if "A" in opened.getbands() else None)
    except (OSError, SyntaxError) as error:  # Pillow calls a broken PNG chunk a SyntaxError
        raise UserError(f"{file} is no readable picture: delete its folder and run again") from error
    few = picture.quantize(256, dither=Image.Dither.NONE)
    change = ImageStat.Stat(ImageChops.difference(picture, few.convert("RGB"))).mean
    buffer = io.BytesIO()
    kind = "png" if max(change) <= _VISIBLE else "webp"
    if kind == "png":
        few.save(buffer, format="PNG", optimize=True)
    else:
        picture.save(buffer, format="WEBP", quality=90, method=6)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    width, height = (round(_PIXELS * side) for side in picture.size)
    return {"source": f"data:image/{kind};base64,{data}", "width": width, "height": height}
