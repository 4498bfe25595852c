"""Markdown tables of measurements."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from peers.environments import KNOWN, MODELS


def by_round(runs: Iterable[Mapping[str, Any]], key: str, **of: Any) -> dict[int, float]:
    """Round → figure, of those measurements `of` something that succeeded."""
    return {run["round"]: run[key] for run in runs if key in run and all(run[name] == of[name] for name in of)}


def figures(
    runs: Iterable[Mapping[str, Any]], peer: str, batch_size: int, key: str, kind: str = "speed"
) -> dict[int, float]:
    """Round → figure, of one peer's measurements at one batch size."""
    return by_round(runs, key, kind=kind, peer=peer, batch_size=batch_size)


def ratio(
    runs: list[Mapping[str, Any]], ours: str, theirs: str, batch_size: int, kind: str = "speed"
) -> dict[int, float]:
    """Round → our rows per second over theirs, of the rounds in which both succeeded."""
    return quotient(*(figures(runs, name, batch_size, "rows_per_second", kind) for name in (ours, theirs)))


def quotient(a: Mapping[int, float], b: Mapping[int, float]) -> dict[int, float]:
    """Round → a figure over another, of the rounds that have both."""
    return {round_: a[round_] / b[round_] for round_ in a.keys() & b.keys()}


def by_batch(runs: list[Mapping[str, Any]], kind: str, *, peak: str) -> list[str]:
    """Rows per second of each peer, ratios to the first one's, and peak memory: a column a batch size."""
    of_kind = [run for run in runs if run["kind"] == kind]
    names = list(dict.fromkeys(run["peer"] for run in of_kind))
    sizes = list(dict.fromkeys(run["batch_size"] for run in of_kind))
    if not names:
        return []
    head = ["trainer", *(f"batch {size:,}" for size in sizes)]
    ours, *others = names

    def table_of(title: str, names: list[str], cell: Callable[[str, int], str]) -> str:
        return f"{title}:\n\n{grid(head, [[KNOWN[n].title, *(cell(n, size) for size in sizes)] for n in names])}"

    def figure(key: str, form: str) -> Callable[[str, int], str]:
        return lambda name, size: spread(figures(runs, name, size, key, kind), form)

    parts = [
        table_of("Rows per second, median (lowest–highest)", names, figure("rows_per_second", "{:,.0f}")),
        table_of(
            f"Rows per second of {KNOWN[ours].title} over those of another, within a round, median (lowest–highest)",
            others,
            lambda name, size: spread(ratio(runs, ours, name, size, kind), "{:.2f}"),
        ),
        table_of(peak, names, figure("peak_rss_mib", "{:,.0f}")),
    ]
    return parts if others else parts[::2]


def spread(values: Mapping[int, float], form: str) -> str:
    """The median, and the lowest and highest when there are several."""
    if not values:
        return "failed"
    median = form.format(statistics.median(values.values()))
    if len(values) == 1:
        return median
    return f"{median} ({form.format(min(values.values()))}–{form.format(max(values.values()))})"


def grid(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def heading(result: Mapping[str, Any]) -> str:
    """What was measured on what, by which command."""
    data, best = result["data"], result["data"]["best_reachable"]
    return (
        f"{data['rows']['train']:,} training and {data['rows']['test']:,} test rows, {data['ids']:,} ids, best "
        f"reachable AUC {best['auc']:.4f} and logloss {best['logloss']:.4f}. "
        f"{MODELS[result['model']]}, embeddings of 10, MLP 400-400-400"
        f"{', 3 cross layers with full matrices' if result['model'] == 'dcnv2' else ''}, {machine_line(result)}"
    )


def machine_line(result: Mapping[str, Any]) -> str:
    """The machine, the moment and the command."""
    of = result["machine"]
    return (
        f"{result['threads']} threads; {of['cpu']}, {of['cores']} cores, {of['memory_gib']} GiB; "
        f"Python {of['python']}, torch {of['packages'].get('torch', '?')}; {of['date']}; "
        f"load at the start {of['load_average_at_start'][0]:.2f}.\n"
        f"Command: `{' '.join(result['command'])}`\n"
    )


def networks(result: Mapping[str, Any]) -> str:
    """How many dense weights each trainer's network has, and what is different about it; empty without networks."""
    groups: dict[tuple[int, str], list[str]] = {}
    for run in result["runs"]:
        settings = run.get("settings", {})
        if "dense_parameters" in settings:
            found = groups.setdefault((settings["dense_parameters"], settings.get("network", "")), [])
            found += [title] if (title := KNOWN[run["peer"]].title) not in found else []
    lines = [
        f"- {count:,}: {'; '.join(titles)}{f' ({why})' if why else ''}\n" for (count, why), titles in groups.items()
    ]
    return "Weights of the network, without those of the ids:\n\n" + "".join(lines) if lines else ""


def left_out(result: Mapping[str, Any]) -> str:
    """Who has no such network; empty where all have it."""
    lines = [f"- {KNOWN[name].title}: {why}\n" for name, why in result["left_out"].items()]
    return "Left out:\n\n" + "".join(lines) if lines else ""


def failures(runs: Iterable[Mapping[str, Any]]) -> str:
    """Why measurements failed; empty where none did."""
    lines = [f"- {run['peer']}{at_batch(run)}: {run['error']}\n" for run in runs if "error" in run]
    return "Failed:\n\n" + "".join(lines) if lines else ""


def at_batch(run: Mapping[str, Any]) -> str:
    """The batch size, where there is one."""
    return f", batch {run['batch_size']:,}" if run["kind"] != "unbatched" else ""


def mean_std(values: Sequence[float]) -> str:
    """Mean ± standard deviation, where there are several."""
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{deviation}"
