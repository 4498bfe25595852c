"""What `clickherd compress` leaves to read: the frontier as a table and a chart, and what became of each part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clickherd.checkpoint import write_text
from clickherd.report.sweep import markdown

FRONTIER = ("", "times smaller", "bytes", "validation AUC", "log loss", "µs a row")
TICKS = (1, 2, 3, 4, 6, 8, 12, 16, 24)  # times smaller
PARTS = ("part", "was", "is", "bytes before", "bytes after", "cost")


def write_compression(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write compress.md, and compress.svg where there are scores to show."""
    from clickherd.report.svg import standalone

    scored = (facts["frontier"][0]["valid"] or {}).get("auc") is not None
    if scored:
        write_text(folder / "compress.svg", standalone(chart(facts)))
    parts = [
        f"# {facts['of']}, made smaller",
        facts["machine"],
        told(facts),
        markdown(FRONTIER, frontier_rows(facts)),
        "Bytes of all weights on disk; in memory those of the dense network take twice as many. All but the last line "
        "are projected and rounded only. Scores are those before any calibration; µs a row: of a prediction, median of "
        "a few.",
        *(["![frontier](compress.svg)"] if scored else []),
        "## What became of each part",
        markdown(PARTS, part_rows(facts)),
        "Cost: how far the predictions move with that part alone made smaller and nothing trained, in nats a row (mean "
        "Kullback–Leibler divergence).",
    ]
    write_text(folder / "compress.md", "\n\n".join(parts) + "\n")


def told(facts: Mapping[str, Any]) -> str:
    """The outcome in words."""
    before, after = facts["frontier"][0], facts.get("result")
    if after is None:
        return "Not finished yet."
    times = before["bytes"] / after["bytes"]
    line = f"{before['bytes']:,} bytes before, {after['bytes']:,} after: {times:.1f} times smaller."
    if (after["valid"] or {}).get("auc") is not None:
        line += f" Validation AUC {before['valid']['auc']:.4f} before, {after['valid']['auc']:.4f} after."
    return line


def frontier_rows(facts: Mapping[str, Any]) -> Iterator[list[str]]:
    """The frontier's cells as text, then the result's."""
    points = [*facts["frontier"], *([facts["result"]] if "result" in facts else [])]
    full = points[0]["bytes"]
    for number, point in enumerate(points):
        last = number == len(facts["frontier"])
        scores = point["valid"] or {}
        yield [
            "as it was" if number == 0 else "finished" if last else "",
            f"{full / point['bytes']:.2f}",
            f"{point['bytes']:,}",
            *("–" if scores.get(name) is None else f"{scores[name]:.4f}" for name in ("auc", "logloss")),
            f"{point['microseconds_per_row']:.2f}",
        ]


def part_rows(facts: Mapping[str, Any]) -> Iterator[list[str]]:
    """The parts' cells as text, the largest first."""
    for part in sorted(facts["parts"], key=lambda part: -part["before"]["num_bytes"]):
        before, after = part["before"], part["after"]
        if part["field"]:
            was, now = (f"{one['dim']} numbers of {one['bits']} bits" for one in (before, after))
        else:
            was, now = "whole", "whole" if after["rank"] is None else f"rank {after['rank']}"
        sizes = (f"{one['num_bytes']:,}" for one in (before, after))
        yield [part["name"], was, "the same" if now == was else now, *sizes, f"{after['loss']:.2g}"]


def chart(facts: Mapping[str, Any]) -> Any:
    """Validation AUC by bytes, before and after training on; an SVG for a page."""
    from matplotlib.axes import Axes
    from matplotlib.ticker import FuncFormatter

    from clickherd.report.svg import FIRST, SECOND, draw, name_axes

    points, result = facts["frontier"], facts.get("result")
    full = points[0]["bytes"]
    times = [full / point["bytes"] for point in points]
    scores = [point["valid"]["auc"] for point in points]

    def paint(axes: Axes) -> None:
        axes.plot(times, scores, color=FIRST, marker="o", label="projected and rounded")
        axes.axhline(scores[0], color=FIRST, linewidth=0.8, linestyle=":")
        if result is not None:
            axes.plot([full / result["bytes"]], [result["valid"]["auc"]], "D", color=SECOND, label="finished")
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.set_xticks([time for time in TICKS if time <= 1.1 * max(times)])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
        axes.legend(frameon=False, loc="lower left")
        name_axes(axes, "times smaller", "validation AUC")

    told_points = ", ".join(f"{time:.1f} times {score:.4f}" for time, score in zip(times, scores, strict=True))
    return draw(paint, f"Validation AUC by how much smaller: {told_points}.")
