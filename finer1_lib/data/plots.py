"""Figures of notebook 01: what the folder holds, what the filters did and prevent, a rationale, triplets.

Data in, a matplotlib figure out; nothing is shown or saved here.
"""

import textwrap
from typing import Any, Sequence

from finer1_lib.core.plots import INK, SEEN, UNSEEN, percent_axis
from finer1_lib.core.prompts import FOUR_PARTS
from finer1_lib.data.rationales.parsing import parse

_ON_AND_OFF = (("on", -0.14, INK, INK, "o"), ("off", 0.14, SEEN, "white", "s"))  # shift, colours, marker


def montage(entries: Sequence[tuple[str, str, Any]], columns: int = 6) -> Any:
    """One image per sub-category, its name below, seen or unseen by word and by the colour of the frame.

    Args:
        entries: (sub-category, "seen" or "unseen", PIL image).
        columns: images in a row.
    """
    import matplotlib.pyplot as plt

    lines = -(-len(entries) // columns)
    fig, axes = plt.subplots(
        lines, columns, figsize=(1.9 * columns, 2.35 * lines), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(entries) :]:
        axis.set_axis_off()
    for axis, (name, categories, image) in zip(axes.flat, entries):
        _show(axis, image, SEEN if categories == "seen" else UNSEEN)
        axis.set_xlabel(f"{_wrapped(name, 16)}\n({categories})", fontsize=11)
    plt.close(fig)
    return fig


def rejections(df: Any) -> Any:
    """Texts that each filter sent back, and images that were given up.

    Args:
        df: reason, texts, images_dropped, in the order of the filters.
    """
    import matplotlib.pyplot as plt

    fig, axis = plt.subplots(figsize=(8.6, 0.62 * len(df) + 1.3), layout="constrained")
    places = range(len(df))
    axis.barh([place - 0.19 for place in places], df["texts"], 0.36, color=INK, label="texts sent back")
    axis.barh([place + 0.19 for place in places], df["images_dropped"], 0.36, color="white", hatch="///",
              edgecolor=INK, label="images given up (last reason)")  # fmt: skip
    for place, texts, images in zip(places, df["texts"], df["images_dropped"]):
        for shift, value in ((-0.19, texts), (0.19, images)):
            axis.annotate(f"{value}", (value, place + shift), (4, 0), textcoords="offset points", va="center",
                          fontsize=11)  # fmt: skip
    axis.set_yticks(places, [reason.replace("_", " ") for reason in df["reason"]], fontsize=12)
    axis.invert_yaxis()
    axis.set_xlabel("how many", fontsize=13)
    axis.tick_params(axis="x", labelsize=12)
    axis.set_xlim(0, max(1, df["texts"].max()) * 1.15)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=11, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2, frameon=False)
    plt.close(fig)
    return fig


def prevented(df: Any) -> Any:
    """Flaws of kept rationales with every step of the making on, and with one switched off.

    Args:
        df: step, flaw, on, on_low, on_high, off, off_low, off_high (fractions; an interval may be missing),
            and n_on, n_off (rationales behind them), a row per step, drawn from the top.
    """
    import matplotlib.pyplot as plt

    fig, axis = plt.subplots(figsize=(10.5, 0.66 * len(df) + 1.5), layout="constrained")
    for place, row in enumerate(df.to_dict("records")):
        span = [100 * row["on"], 100 * row["off"]]
        axis.plot(span, [place, place], color="#BBBBBB", linewidth=1.2, zorder=1)
        for which, shift, colour, face, marker in _ON_AND_OFF:
            value, low, high = (100 * float(row[which + end]) for end in ("", "_low", "_high"))
            axis.plot([low, high], [place + shift] * 2, color=colour, linewidth=1.8, zorder=2)
            axis.plot([value], [place + shift], marker, color=colour, markerfacecolor=face, markersize=9,
                      markeredgewidth=1.8, zorder=3)  # fmt: skip
        ends = [row[key] for key in ("off", "off_high", "on_high") if row[key] == row[key]]
        axis.annotate(f"{100 * row['on']:.0f} → {100 * row['off']:.0f}", (100 * max(ends), place), (8, 0),
                      textcoords="offset points", va="center", fontsize=12)  # fmt: skip
    names = [f"{row['flaw']}\n({row['step']})" for row in df.to_dict("records")]
    axis.set_yticks(range(len(df)), names, fontsize=11)
    axis.set_ylim(len(df) - 0.5, -0.5)
    percent_axis(axis, -2, 112)
    few, many = df[["n_on", "n_off"]].min().min(), df[["n_on", "n_off"]].max().max()
    label = f"kept rationales with this flaw (%), 95 % intervals, n {few} to {many} each"
    axis.set_xlabel(label, fontsize=13)
    marks = [
        axis.plot([], [], marker, color=colour, markerfacecolor=face, markersize=9, markeredgewidth=1.8,
                  label=f"step {which}")[0]
        for which, _, colour, face, marker in _ON_AND_OFF
    ]  # fmt: skip
    axis.legend(handles=marks, fontsize=12, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2,
                frameon=False)  # fmt: skip
    plt.close(fig)
    return fig


def rationale_sheet(image: Any, text: str, title: str) -> Any:
    """An image and, beside it, the parts of its rationale."""
    import matplotlib.pyplot as plt

    trace = parse(text)
    parts = [(part, getattr(trace, part) or "(not readable)") for part in FOUR_PARTS]
    blocks = [(part, textwrap.wrap(content, 88) or [""]) for part, content in parts]
    height = 0.27 * sum(1 + len(lines) for _, lines in blocks) + 0.6
    fig, (left, right) = plt.subplots(
        1, 2, figsize=(11, max(3.2, height)), width_ratios=(1, 2.4), layout="constrained"
    )
    _show(left, image, INK)
    left.set_title(_wrapped(title, 24), fontsize=13)
    right.set_axis_off()
    line, total = 0, sum(1 + len(lines) for _, lines in blocks)
    for part, lines in blocks:
        for number, content in enumerate([part, *lines]):
            colour, weight = (INK, "bold") if number == 0 else ("black", "normal")
            right.text(0, 1 - (line + 0.5) / total, content, fontsize=12, fontweight=weight, va="center",
                       color=colour, transform=right.transAxes)  # fmt: skip
            line += 1
    plt.close(fig)
    return fig


def triplet_sheet(triplets: Sequence[tuple[tuple[str, Any], tuple[str, Any], tuple[str, Any]]]) -> Any:
    """Rows of anchor, positive and negative, the last in a broken frame.

    Args:
        triplets: ((name, image), (name, image), (name, image)) each.
    """
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(
        len(triplets), 3, figsize=(7.2, 2.55 * len(triplets)), squeeze=False, layout="constrained"
    )
    for line, triplet in zip(axes, triplets):
        for axis, (name, image), style in zip(line, triplet, ("-", "-", "--")):
            _show(axis, image, INK, style)
            axis.set_xlabel(_wrapped(name, 24), fontsize=11)
    roles = ("anchor", "positive:\nthe same sub-category", "negative:\na similar other one")
    for axis, role in zip(axes[0], roles):
        axis.set_title(role, fontsize=13)
    plt.close(fig)
    return fig


def _show(axis: Any, image: Any, colour: str, style: str = "-") -> None:
    """An image in a coloured frame, without ticks."""
    axis.imshow(image)
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set(color=colour, linewidth=2.5, linestyle=style)


def _wrapped(text: str, width: int) -> str:
    """Broken into lines."""
    return "\n".join(textwrap.wrap(text, width))
