"""What `clickherd tune` leaves to read: its trials as Markdown, charts of scores and of each setting's importance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clickherd.checkpoint import write_text
from clickherd.report.sweep import markdown

SETTINGS = ("setting", "searched", "best", "importance")


def write_search(folder: Path, result: Mapping[str, Any]) -> None:
    """Write report.md and the charts that there is something to draw for."""
    from clickherd.report.svg import standalone

    charts = {"trials": scores_chart(result), "importance": importance_chart(result)}
    for name, drawn in charts.items():
        if drawn is not None:
            write_text(folder / f"{name}.svg", standalone(drawn))
    count = result["rows"]
    parts = [
        f"# Search for settings of {result['model']}",
        f"{count['train']:,} training and {count['valid']:,} validation rows, {result['epochs']} epochs at most; "
        f"{result['machine']}.",
        "\n".join(told(result)),
    ]
    if result["best"]:
        parts.append(markdown(SETTINGS, settings(result)))
    parts += [f"![{name}]({name}.svg)" for name, drawn in charts.items() if drawn is not None]
    parts += [markdown(head(result), rows(result))]
    parts.append(
        "Best scores first. A trial that was cut short (pruned) has the score of its last epoch. Importance is the "
        "share of the finished trials' variance that a setting explains alone (fANOVA)."
    )
    write_text(folder / "report.md", "\n\n".join(parts) + "\n")


def told(result: Mapping[str, Any]) -> list[str]:
    """The outcome in words."""
    count, best = result["trials"], result["best"]
    cut = f"{count['pruned']} cut short" + (f", {count['diverged']} diverged" if count["diverged"] else "")
    if best is None:
        return [f"No trial of {count['finished']} went to its end ({cut})."]
    return [
        f"Best of {count['finished']} trials ({cut}): trial {best['trial']}, validation {_score(result)} "
        f"{best['score']:.4f} at epoch {best['best_epoch']}."
    ]


def settings(result: Mapping[str, Any]) -> Iterator[list[str]]:
    """What was searched, the best trial's value and how much it matters, as text; a list per setting."""
    for name, searched in result["space"].items():
        share = "–" if result["importance"] is None else f"{result['importance'].get(name, 0):.0%}"
        yield [name, searched, shown(result["best"]["settings"][name]), share]


def head(result: Mapping[str, Any]) -> list[str]:
    """The head of the table of trials."""
    return ["trial", f"valid {_score(result)}", "epochs", "state", *(_short(name) for name in result["space"])]


def rows(result: Mapping[str, Any]) -> Iterator[list[str]]:
    """The trials as text, best scores first and those that went to their end before those that did not."""
    sign = 1 if result["monitor"] in ("auc", "gauc") else -1

    def place(record: Mapping[str, Any]) -> tuple[bool, float]:
        return record["state"] != "complete", -sign * record["score"] if record["score"] is not None else np.inf

    for record in sorted(result["table"], key=place):
        yield [
            str(record["trial"]),
            "–" if record["score"] is None else f"{record['score']:.4f}",
            str(record["epochs"]),
            record["state"],
            *(shown(record["settings"].get(name)) for name in result["space"]),
        ]


def shown(value: Any) -> str:
    """A setting's value in few letters."""
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value).replace(" ", "")


def _score(result: Mapping[str, Any]) -> str:
    monitor = result["monitor"]
    return str(monitor if monitor == "logloss" else monitor.upper())


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def scores_chart(result: Mapping[str, Any]) -> Any:
    """Score by trial, those cut short apart, and the best so far; an SVG for a page, None without finished trials."""
    from matplotlib.axes import Axes
    from matplotlib.ticker import MaxNLocator

    from clickherd.report.svg import FIRST, SECOND, draw, name_axes

    scored = [record for record in result["table"] if record["score"] is not None]
    done = [record for record in scored if record["state"] == "complete"]
    cut = [record for record in scored if record["state"] != "complete"]
    if not done:
        return None
    best = np.maximum if result["monitor"] in ("auc", "gauc") else np.minimum
    x, y = (np.array([record[name] for record in done], np.float64) for name in ("trial", "score"))

    def paint(axes: Axes) -> None:
        axes.step(x, best.accumulate(y), where="post", color=FIRST, label="best so far")
        axes.plot(x, y, "o", color=FIRST, markersize=5, label="finished")
        if cut:
            points = [[record[name] for record in cut] for name in ("trial", "score")]
            axes.plot(*points, "x", color=SECOND, markersize=5, label="cut short, last epoch")
        low, high = float(y.min()), float(y.max())
        room = max(high - low, 1e-3 * abs(high))
        axes.set_ylim(low - 0.3 * room, high + 0.2 * room)  # trials cut short may lie far off
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.grid(visible=False, axis="x")
        name_axes(axes, "trial", f"validation {_score(result)}")
        axes.figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=11)

    return draw(paint, f"Score by trial: {len(done)} finished, best {best.reduce(y):.4f}; {len(cut)} cut short.")


def importance_chart(result: Mapping[str, Any]) -> Any:
    """Each setting's share of the score's variance; an SVG for a page, None where it is not known."""
    from matplotlib.axes import Axes
    from matplotlib.ticker import MaxNLocator

    from clickherd.report.svg import FIRST, INK, PERCENT, draw

    if not result["importance"]:
        return None
    names, shares = list(result["importance"]), list(result["importance"].values())

    def paint(axes: Axes) -> None:
        y = np.arange(len(names))
        axes.barh(y, shares, height=0.66, color=FIRST, alpha=0.85)
        axes.set_yticks(y, [_short(name) for name in names], color=INK)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(PERCENT)
        axes.grid(visible=False, axis="y")
        axes.spines["bottom"].set_visible(False)
        axes.set_xlabel("share of the score's variance →", loc="right")

    spoken = ", ".join(f"{name} {share:.0%}" for name, share in result["importance"].items())
    return draw(paint, f"Importance of settings: {spoken}.", height=0.75 + 0.36 * len(names))
