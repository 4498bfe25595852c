"""What `clickherd select` leaves to read: its table as Markdown, and a chart of the scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clickherd.checkpoint import write_text
from clickherd.report.sweep import markdown
from clickherd.selection.ranking import PAIR_ABOVE_NOISE

HEAD = ("", "column", "share", "above noise", "3MR", "values", "missing", "drift", "remarks")
PAIRS = ("columns", "share together", "gain", "above noise")
MOST_BARS, MOST_PAIRS = 30, 10


def write_selection(folder: Path, result: Mapping[str, Any]) -> None:
    """Write report.md and select.svg."""
    from clickherd.report.svg import standalone

    write_text(folder / "select.svg", standalone(chart(result)))
    pairs = list(pair_rows(result))
    parts = [
        "# What each column tells about clicks",
        f"{result['rows']['train']:,} training rows; {result['machine']}.",
        "\n".join(told(result)),
        markdown(HEAD, rows(result)),
        "Share: of the label's entropy that the column explains, beyond what chance would have a column of as many "
        "values explain (OutRank); above noise: that in standard deviations of chance. 3MR: the place among the "
        "columns when those that repeat others come later and those that add to others come earlier. Drift in bits, "
        "earlier half of the log against the later one, by "
        + (f"{result['order']}." if result["order"] else "the order of the rows."),
    ]
    if pairs:
        parts += [
            "## Columns that tell more together",
            markdown(PAIRS, iter(pairs)),
            "Gain: what the two explain together beyond what they explain one by one. A model that multiplies "
            "embeddings finds most such combinations by itself; one of a few values may be worth a column of its own, "
            "`--cross A*B`.",
        ]
    write_text(folder / "report.md", "\n\n".join([*parts, "![share by column](select.svg)"]) + "\n")


VALUES = ("column", "values", "kept", "share of the values", "share of the rows")


def write_values(folder: Path, result: Mapping[str, Any]) -> None:
    """Write report.md of a selection of values."""
    parts = [
        f"# Which values are worth a row to {result['model']}",
        f"{result['rows']['train']:,} training rows, {result['epochs']} epochs; {result['machine']}.",
        told_values(result),
        markdown(VALUES, value_rows(result)),
        "Values that are not kept become unknown. Rows: those of the training rows whose value is kept.",
    ]
    write_text(folder / "report.md", "\n\n".join(parts) + "\n")


def told_values(result: Mapping[str, Any]) -> str:
    """The outcome of a selection of values in words."""
    valid = result["valid"].get("auc")
    score = "" if valid is None else f" Validation AUC at the end of the search: {valid:.4f}."
    return f"Kept: {result['kept_values']:,} of {result['values']:,} values ({result['kept_share']:.1%}).{score}"


def value_rows(result: Mapping[str, Any]) -> Iterator[list[str]]:
    """The table's cells as text, a list per column."""
    for field in result["features"]:
        share = field["kept_values"] / max(field["values"], 1)
        name = field["name"] + ("" if field["gated"] else " (not gated)")
        yield [name, f"{field['values']:,}", f"{field['kept_values']:,}", f"{share:.1%}", f"{field['score']:.1%}"]


SIZES = ("column", "values", "kept", "numbers a row", "share of the rows")


def write_sizes(folder: Path, result: Mapping[str, Any]) -> None:
    """Write report.md of a selection of values and lengths."""
    parts = [
        f"# Which values {result['model']} keeps, and how many numbers their rows hold",
        f"{result['rows']['train']:,} training rows, {result['epochs']} epochs; {result['machine']}.",
        "\n".join(told_sizes(result)),
        markdown(SIZES, size_rows(result)),
        "Values that are not kept become unknown. Rows: those of the training rows whose value is kept.",
    ]
    write_text(folder / "report.md", "\n\n".join(parts) + "\n")


def told_sizes(result: Mapping[str, Any]) -> list[str]:
    """The outcome of a selection of values and lengths in words."""
    found = result["supernet"]
    return [
        f"Kept: {result['kept_values']:,} of {result['values']:,} values ({result['kept_share']:.1%}), and "
        f"{result['numbers_share']:.1%} of the table's numbers.",
        f"{found['scored']:,} ways to cut rows were tried. The network that was searched with has a validation AUC of",
        f"{found['auc']:.4f} with the best, of {found['auc_of_all']:.4f} with whole rows; train anew to know more.",
    ]


def size_rows(result: Mapping[str, Any]) -> Iterator[list[str]]:
    """The table's cells as text, a list per column."""
    for field in result["features"]:
        name = field["name"] + ("" if field["kept"] else " (left out)")
        of = (f"{field['values']:,}", f"{field['kept_values']:,}", f"{field['numbers']}", f"{field['score']:.1%}")
        yield [name, *of]


FIELDS = ("", "column", "open", "values")


def write_fields(folder: Path, result: Mapping[str, Any]) -> None:
    """Write report.md of a selection by gates over fields."""
    layers = result["settings"]["layers"]
    parts = [
        f"# Which columns are worth having to {result['model']}",
        f"{result['rows']['train']:,} training rows, {result['epochs']} epochs, {layers} gates a column; "
        f"{result['machine']}.",
        "\n".join(told(result)),
        markdown(FIELDS, field_rows(result)),
        "Open: how likely each of a column's gates is to be open at the end, σ(θ); from a half on it is kept.",
    ]
    write_text(folder / "report.md", "\n\n".join(parts) + "\n")


def field_rows(result: Mapping[str, Any]) -> Iterator[list[str]]:
    """The table's cells as text, a list per column, best first."""
    for place, field in enumerate(result["features"], start=1):
        name = field["name"] + ("" if field["kept"] else " (left out)")
        yield [str(place), name, f"{field['score']:.0%}", f"{field['values']:,}"]


def told(result: Mapping[str, Any]) -> list[str]:
    """The outcome in words."""
    kept, names = result["kept"], [feature["name"] for feature in result["features"]]
    left = [name for name in names if name not in kept]
    lines = [f"Kept: {len(kept)} of {len(names)} columns."]
    if left:
        shown = ", ".join(left[:MOST_PAIRS]) + (f" and {len(left) - MOST_PAIRS} more" if len(left) > MOST_PAIRS else "")
        lines.append(f"Left out: {shown}.")
    return lines


def rows(result: Mapping[str, Any]) -> Iterator[list[str]]:
    """The table's cells as text, a list per column of the log, best first."""
    for place, feature in enumerate(result["features"], start=1):
        yield [
            str(place),
            feature["name"] + ("" if feature["kept"] else " (left out)"),
            f"{feature['share']:.3%}",
            f"{feature['above_noise']:.1f}",
            str(feature["rank_3mr"] or "–"),
            f"{feature['distinct']:,}",
            f"{feature['missing']:.1%}",
            f"{max(feature['drift'], 0):.3f}",
            "; ".join(feature["notes"]),
        ]


def pair_rows(result: Mapping[str, Any]) -> Iterator[list[str]]:
    """The pairs that gain most, as text."""
    scale = result["label_entropy"]
    for pair in [one for one in result["pairs"] if one["gain_above_noise"] > PAIR_ABOVE_NOISE][:MOST_PAIRS]:
        yield [
            "*".join(pair["features"]),
            f"{pair['score'] / scale:.3%}",
            f"{pair['gain'] / scale:.3%}",
            f"{pair['gain_above_noise']:.1f}",
        ]


def chart(result: Mapping[str, Any]) -> Any:
    """The share of each column, those left out in grey, with a bar for the noise; an SVG for a page."""
    from matplotlib.axes import Axes
    from matplotlib.ticker import MaxNLocator

    from clickherd.report.svg import FIRST, INK, MUTED, PERCENT, draw

    shown = result["features"][:MOST_BARS]
    names = [f["name"] if len(f["name"]) <= 20 else f"{f['name'][:19]}…" for f in shown]
    shares = np.array([f["share"] for f in shown])
    noise = np.array([f["share"] / f["above_noise"] if f["above_noise"] else 0.0 for f in shown])

    def paint(axes: Axes) -> None:
        y = np.arange(len(shown))
        colours = [FIRST if f["kept"] else MUTED for f in shown]
        axes.barh(y, shares, height=0.66, color=colours, alpha=0.85)
        axes.errorbar(shares, y, xerr=noise, fmt="none", ecolor=INK, elinewidth=1.2, capsize=2.5)
        axes.axvline(0, color=MUTED, linewidth=0.8)
        axes.set_yticks(y, names, color=INK)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(PERCENT)
        axes.grid(visible=False, axis="y")
        axes.spines["bottom"].set_visible(False)
        axes.set_xlabel("of the label's entropy →", loc="right")

    told_shares = ", ".join(f"{name} {share:.3%}" for name, share in zip(names[:5], shares, strict=False))
    return draw(paint, f"Share of the label's entropy: {told_shares}.", height=0.75 + 0.36 * len(shown))
