"""Figures of the miniature world: a genus as images, and how well the base reads each attribute."""

from typing import Any

from finer1_lib.core.plots import INK, SEEN, UNSEEN, panels
from finer1_lib.miniature.model_card import BARS


def genus_sheet(rows: list[tuple[str, list[Any]]]) -> Any:
    """A row a sub-category of a genus: `rows` are [(sub-category, [PIL images])], equally many in each."""
    across = len(rows[0][1])
    fig, axes = panels(len(rows), across, (1.55 * across + 1.6, 1.6 * len(rows)))
    for (name, pictures), line in zip(rows, axes):
        for axis, picture in zip(line, pictures):
            axis.imshow(picture)
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(name.replace(" ", "\n"), rotation=0, ha="right", va="center", fontsize=13)
    return fig


def attribute_reading(df: Any) -> Any:
    """How often each attribute is read correctly, seen beside unseen; a panel a super-category.

    `df` has the card's rows: super_category, attribute, categories, value, low, high, n (fractions, 95 %
    intervals).
    """
    kinds = list(dict.fromkeys(df["super_category"]))
    fig, axes = panels(1, len(kinds), (5.6 * len(kinds), 4.4), sharex=True)
    for axis, kind in zip(axes[0], kinds):
        part = df[df["super_category"] == kind]
        attributes = list(dict.fromkeys(part["attribute"]))
        for categories, colour, marker, shift in (("seen", SEEN, "o", -0.14), ("unseen", UNSEEN, "s", 0.14)):
            cell = part[part["categories"] == categories].set_index("attribute").loc[attributes]
            places = [index + shift for index in range(len(attributes))]
            # Rounding can put a bound a hair inside its value.
            value, low, high = (100 * cell[key] for key in ("value", "low", "high"))
            errors = [(value - low).clip(0), (high - value).clip(0)]
            axis.errorbar(value, places, xerr=errors, fmt=marker, color=colour, capsize=3,
                          markersize=8, linewidth=2, markeredgecolor=INK,
                          label=f"{categories} sub-categories (n = {cell['n'].max()} each)")
        bar = 100 * BARS["attribute read from image, each"][1]
        axis.axvline(bar, color=INK, linestyle=":", linewidth=1.5, label=f"required of the base: {bar:.0f} %")
        axis.set_yticks(range(len(attributes)), attributes, fontsize=13)
        axis.invert_yaxis()
        axis.set_title(f"{kind}: attributes read", fontsize=15)
        axis.set_xlabel("read correctly from the image (%)", fontsize=13)
        axis.tick_params(axis="x", labelsize=12)
        axis.spines[["top", "right"]].set_visible(False)
    fig.legend(*axes[0][-1].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=13,
               frameon=False)
    return fig
