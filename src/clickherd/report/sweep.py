"""What `clickherd scale` leaves to read: the table of its runs as Markdown, and a chart of AUC by batch size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from clickherd.checkpoint import write_text

HEAD = (
    "batch",
    "rule",
    "seeds",
    "valid AUC",
    "valid logloss",
    "test AUC",
    "test logloss",
    "best epoch",
    "seconds",
    "rows/s",
    "clipped",
)
MARGIN = 1.4  # of the chart, left of the smallest and right of the largest batch size, as a factor
LABEL_WIDTH = 0.19  # of a batch size, as a share of the axis


def write_sweep(folder: Path, result: Mapping[str, Any], lines: Sequence[str]) -> None:
    """Write report.md and scale.svg; `lines` is the recommendation in words."""
    from clickherd.report.svg import standalone

    write_text(folder / "scale.svg", standalone(chart(result)))
    count = result["rows"]
    parts = [
        f"# Batch sizes for {result['model']}",
        f"{count['train']:,} training, {count['valid']:,} validation and {count['test']:,} test rows; "
        f"{result['machine']}.",
        "\n".join(lines),
        markdown(HEAD, rows(result)),
        "Means over seeds ± standard deviations; validation AUC of the best epoch decides, test scores choose nothing. "
        "Seconds are those of training, validation left out; clipped is the share of the touched embedding rows.",
        "![validation AUC by batch size](scale.svg)",
    ]
    write_text(folder / "report.md", "\n\n".join(parts) + "\n")


def markdown(head: Sequence[str], body: Iterator[list[str]]) -> str:
    """A Markdown table."""
    cells = [[cell.replace("|", "\\|") for cell in line] for line in [head, ["---"] * len(head), *body]]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def rows(result: Mapping[str, Any]) -> Iterator[list[str]]:
    """The table's cells as text, a list per batch size and rule."""
    for cell in result["table"]:
        clipped = cell["clipped_fraction"]
        yield [
            f"{cell['batch_size']:,}",
            cell["rule"],
            f"{cell['seeds']}" + (f" ({cell['diverged']} diverged)" if cell["diverged"] else ""),
            *(_spread(cell, f"{split}_{name}") for split in ("valid", "test") for name in ("auc", "logloss")),
            "/".join(map(str, cell["best_epochs"])) or "–",
            _number(cell["seconds"], ",.1f"),
            _number(cell["rows_per_second"], ",.0f"),
            "–" if clipped is None else f"{clipped:.3%}",
        ]


def _spread(cell: Mapping[str, Any], name: str) -> str:
    deviation = cell[f"{name}_std"]
    return _number(cell[name], ".4f") + ("" if deviation is None else f" ± {deviation:.4f}")


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def size_labels(sizes: Sequence[int]) -> list[str]:
    """Batch sizes for a logarithmic axis; one that would touch the label to its left goes a line lower."""
    width = math.log(sizes[-1] / sizes[0] * MARGIN**2)
    labels, lowered = [f"{sizes[0]:,}"], False
    for before, size in itertools.pairwise(sizes):
        lowered = not lowered and math.log(size / before) < LABEL_WIDTH * width
        labels.append(f"{chr(10) * lowered}{size:,}")
    return labels


def chart(result: Mapping[str, Any]) -> Any:
    """Mean validation AUC by batch size, a line per rule, with the margin below the best; an SVG for a page."""
    from matplotlib.axes import Axes
    from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

    from clickherd.report.svg import FIRST, INK, MUTED, SECOND, THIRD, draw, name_axes

    scored = [cell for cell in result["table"] if cell["valid_auc"] is not None]
    looks = [(colour, style) for style in ("-", "--") for colour in (FIRST, SECOND, THIRD, INK)]

    def paint(axes: Axes) -> None:
        sizes = sorted({cell["batch_size"] for cell in result["table"]})
        rules = list(dict.fromkeys(cell["rule"] for cell in scored))

        def x(cell: Mapping[str, Any]) -> float:  # side by side, not hidden
            return float(cell["batch_size"] * 1.04 ** (rules.index(cell["rule"]) - (len(rules) - 1) / 2))

        for i, rule in enumerate(rules):
            own = [cell for cell in scored if cell["rule"] == rule]
            colour, style = looks[i % len(looks)]
            axes.errorbar(
                [x(cell) for cell in own],
                [cell["valid_auc"] for cell in own],
                yerr=[cell["valid_auc_std"] or 0.0 for cell in own],
                color=colour,
                linestyle=style,
                marker="osD^v"[i % 5],
                markersize=5,
                elinewidth=1,
                capsize=2,
                label=rule,
            )
        if chosen := result["recommended"]:  # what decided may be of fewer seeds than what is drawn
            drawn = {(cell["batch_size"], cell["rule"]): cell["valid_auc"] for cell in scored}
            best = drawn[chosen["best"]["batch_size"], chosen["best"]["rule"]]
            axes.axhline(best - result["margin"], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
            height = drawn[chosen["batch_size"], chosen["rule"]]
            axes.plot([x(chosen)], [height], "o", markersize=14, markerfacecolor="none", color=INK)
        axes.set_xscale("log", base=2)
        axes.set_xlim(sizes[0] / MARGIN, sizes[-1] * MARGIN)
        axes.xaxis.set_major_locator(FixedLocator(sizes))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FixedFormatter(size_labels(sizes)))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.grid(visible=False, axis="x")
        name_axes(axes, "batch size", "validation AUC")
        if scored:
            axes.figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=11)

    told = ", ".join(f"{c['batch_size']:,} {c['rule']} {c['valid_auc']:.4f}" for c in scored)
    return draw(paint, f"Validation AUC by batch size and rule: {told}. Dashed: the best less the margin.", height=4.2)
