"""Figures of notebook 01: what the folder holds, what the filters did and prevent, a rationale, triplets.

Data in, a matplotlib figure out; nothing is shown or saved here.
"""

import textwrap
from typing import Any, Sequence

from finer1_lib.core.plots import INK, SEEN, UNSEEN, panels, percent_axis
from finer1_lib.core.prompts import FOUR_PARTS
from finer1_lib.data.rationales.parsing import parse


def montage(entries: Sequence[tuple[str, str, Any]], columns: int = 6) -> Any:
    """One image per sub-category, framed by its colour: entries (name, "seen" or "unseen", PIL image)."""
    lines = -(-len(entries) // columns)
    fig, axes = panels(lines, columns, (1.9 * columns, 2.35 * lines))
    for axis in axes.flat[len(entries) :]:
        axis.set_axis_off()
    for axis, (name, categories, image) in zip(axes.flat, entries):
        _show(axis, image, SEEN if categories == "seen" else UNSEEN)
        axis.set_xlabel(f"{_wrapped(name, 16)}\n({categories})", fontsize=11)
    return fig


def rejections(df: Any) -> Any:
    """Texts that each filter sent back and images given up: columns reason, texts, images_dropped."""
    fig, ((axis,),) = panels(1, 1, (8.6, 0.62 * len(df) + 1.3))
    shown = df[["texts", "images_dropped"]].set_axis(df["reason"].str.replace("_", " "))
    shown.columns = ["texts sent back", "images given up (last reason)"]
    shown.plot.barh(ax=axis, width=0.74, color=[INK, "white"], edgecolor=INK)
    for bars, hatch in zip(axis.containers, ("", "///")):
        for bar in bars:
            bar.set_hatch(hatch)
        axis.bar_label(bars, padding=4, fontsize=11)
    axis.invert_yaxis()
    axis.set(ylabel="", xlim=(0, max(1, df["texts"].max()) * 1.15))
    axis.set_xlabel("how many", fontsize=13)
    axis.tick_params(labelsize=12)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=11, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2, frameon=False)
    return fig


def prevented(df: Any) -> Any:
    """Flaws of kept rationales with every step of the making on, and with one switched off.

    A row per step: step, flaw, on, on_low, on_high, off, off_low, off_high (fractions; an interval may be
    missing), n_on, n_off.
    """
    fig, ((axis,),) = panels(1, 1, (10.5, 0.66 * len(df) + 1.5))
    places = df.reset_index().index
    axis.hlines(places, 100 * df["on"], 100 * df["off"], color="#BBBBBB", linewidth=1.2, zorder=1)
    marks = ("on", -0.14, INK, INK, "o"), ("off", 0.14, SEEN, "white", "s")
    for which, shift, colour, face, marker in marks:
        value, low, high = (100 * df[which + end].astype(float) for end in ("", "_low", "_high"))
        axis.errorbar(value, places + shift, xerr=[(value - low).clip(0), (high - value).clip(0)], fmt=marker,
                      color=colour, markerfacecolor=face, markersize=9, markeredgewidth=1.8, elinewidth=1.8,
                      label=f"step {which}")
    right_ends = df[["off", "off_high", "on_high"]].astype(float).max(axis=1)
    for place, right, on, off in zip(places, right_ends, df["on"], df["off"]):
        axis.annotate(f"{100 * on:.0f} → {100 * off:.0f}", (100 * right, place), (8, 0),
                      textcoords="offset points", va="center", fontsize=12)
    axis.set_yticks(places, df["flaw"] + "\n(" + df["step"] + ")", fontsize=11)
    axis.set_ylim(len(df) - 0.5, -0.5)
    percent_axis(axis, -2, 112)
    n = df[["n_on", "n_off"]].to_numpy()
    axis.set_xlabel(f"kept rationales with this flaw (%), 95 % intervals, n {n.min()} to {n.max()} each",
                    fontsize=13)
    axis.legend(fontsize=12, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2, frameon=False)
    return fig


def rationale_sheet(image: Any, text: str, title: str) -> Any:
    """An image and, beside it, the parts of its rationale."""
    trace, lines = parse(text), []
    for part in FOUR_PARTS:
        content = textwrap.wrap(getattr(trace, part) or "(not readable)", 88) or [""]
        lines += [(part, INK, "bold"), *((line, "black", "normal") for line in content)]
    fig, ((left, right),) = panels(1, 2, (11, max(3.2, 0.27 * len(lines) + 0.6)), width_ratios=(1, 2.4))
    _show(left, image, INK)
    left.set_title(_wrapped(title, 24), fontsize=13)
    right.set_axis_off()
    for number, (content, colour, weight) in enumerate(lines):
        right.text(0, 1 - (number + 0.5) / len(lines), content, fontsize=12, fontweight=weight, va="center",
                   color=colour, transform=right.transAxes)
    return fig


def triplet_sheet(triplets: Sequence[tuple[tuple[str, Any], tuple[str, Any], tuple[str, Any]]]) -> Any:
    """Rows of anchor, positive and negative ((name, image) each), the last in a broken frame."""
    fig, axes = panels(len(triplets), 3, (7.2, 2.55 * len(triplets)))
    for line, triplet in zip(axes, triplets):
        for axis, (name, image), style in zip(line, triplet, ("-", "-", "--")):
            _show(axis, image, INK, style)
            axis.set_xlabel(_wrapped(name, 24), fontsize=11)
    roles = ("anchor", "positive:\nthe same sub-category", "negative:\na similar other one")
    for axis, role in zip(axes[0], roles):
        axis.set_title(role, fontsize=13)
    return fig


def _show(axis: Any, image: Any, colour: str, style: str = "-") -> None:
    """An image in a coloured frame, without ticks."""
    axis.imshow(image)
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set(color=colour, linewidth=2.5, linestyle=style)


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width))
