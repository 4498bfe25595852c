"""Markdown tables of measurements."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from peers.environments import KNOWN, MODELS


def figures(runs: Iterable[Mapping[str, Any]], peer: str, batch_size: int, key: str) -> dict[int, float]:
    """Round → figure, of the measurements that succeeded."""
    return {
        run["round"]: run[key]
        for run in runs
        if run["kind"] == "speed" and run["peer"] == peer and run["batch_size"] == batch_size and key in run
    }


def ratio(runs: list[Mapping[str, Any]], ours: str, theirs: str, batch_size: int) -> dict[int, float]:
    """Round → our rows per second over theirs, of the rounds in which both succeeded."""
    a, b = (figures(runs, name, batch_size, "rows_per_second") for name in (ours, theirs))
    return {round_: a[round_] / b[round_] for round_ in a.keys() & b.keys()}


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
