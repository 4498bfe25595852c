"""docs/leaderboard.md: what was trained on public data sets, from the result files, and what BARS published.

    python benchmarks/leaderboard.py

It trains nothing. A line is one model of one trainer with one set of settings, over its seeds; lines are in the order
of their validation AUC. Test scores choose nothing here, but the published settings that some lines have were chosen by
them.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import host
from movielens import BASE
from tables import grid, mean_std
from zoo import TRAINERS as ZOO_TRAINERS
from zoo import chosen_runs
from zoo_models import ENTRIES

PAGE = host.REPOSITORY / "docs" / "leaderboard.md"
TITLES = {
    "frappe_x1": "Frappe_x1 (BARS's validation and test rows, reconstructed training rows)",
    "movielens_1m": "MovieLens-1M, random split",
    "histories": "MovieLens-1M, split by each user's time, with histories",
    "census_adult": "Census income",
}
INTRODUCTION = """# Leaderboard

Made by `python benchmarks/leaderboard.py` from the files in [benchmarks/results](../benchmarks/results), each of which
names its machine and the command that made it. Mean ± standard deviation over seeds. Lines are in the order of their
validation AUC, by which epochs were chosen, and settings too where there was a choice: the five networks beside FuxiCTR
on Frappe have those that BARS published, which were chosen by test scores. Test rows were scored once. Samples of a few
thousand rows are left out: they tell nothing.
"""
PUBLISHED = """What [BARS](https://github.com/reczoo/BARS) published for Frappe_x1, one seed each. Read with care: those
models were trained on the original training rows, and their settings were chosen by the scores that are shown.
"""


@dataclass(frozen=True)
class Line:
    """One model's scores, a value a seed, or the mean and deviation that a file keeps of them."""

    data_set: str
    model: str
    trainer: str
    seeds: int
    valid: float
    shown: tuple[str, str, str]  # validation AUC, test AUC, test log loss
    source: str


def main() -> None:
    PAGE.write_text(page())
    print(PAGE.relative_to(host.REPOSITORY))


def page() -> str:
    """The whole page."""
    lines = [*zoo(), *baselines(), *sweep(), *histories()]
    parts = [INTRODUCTION]
    for name, title in TITLES.items():
        found = sorted((line for line in lines if line.data_set == name), key=lambda line: -line.valid)
        if found:
            parts.append(f"## {title}\n\n{section(found)}")
        if name == "frappe_x1":
            rows = [[entry.title, *entry.published.split(" / ")] for entry in ENTRIES[name].values()]
            parts.append(f"{PUBLISHED}\n{grid(['model', 'test AUC', 'test log loss'], rows)}")
    return "\n".join(parts)


def section(lines: list[Line]) -> str:
    head = ["model", "trainer", "seeds", "validation AUC", "test AUC", "test log loss", "file"]
    return grid(
        head,
        [
            [
                line.model,
                line.trainer,
                str(line.seeds),
                *line.shown,
                f"[{line.source}](../benchmarks/results/{line.source}.md)",
            ]
            for line in lines
        ],
    )


def read(name: str) -> Any:
    """A result file, or nothing where it is yet to be made."""
    path = host.RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def of_runs(data_set: str, model: str, trainer: str, runs: list[dict[str, Any]], source: str) -> Line:
    """A line from single runs."""
    valid, test, loss = (
        [run[part][key] for run in runs] for part, key in (("valid", "auc"), ("test", "auc"), ("test", "logloss"))
    )
    shown = (mean_std(valid), mean_std(test), mean_std(loss))
    return Line(data_set, model, trainer, len(runs), statistics.mean(valid), shown, source)


def zoo() -> Iterator[Line]:
    """clickherd beside FuxiCTR, with the same settings and, for MovieLens, with its own."""
    for data_set, entries in ENTRIES.items():
        file = f"zoo-{data_set}"
        runs = (read(file) or {"runs": []})["runs"]
        for trainer, title in ZOO_TRAINERS.items():
            for entry in entries.values():
                if group := chosen_runs(runs, entry, trainer):
                    yield of_runs(data_set, entry.title, title, group, file)


FILES = {
    "baselines-amd-epyc-2c": "",
    "baselines-frappe-crossed-amd-epyc-2c": ", user × item crossed",
    "baselines-frappe-crossed-trees-amd-epyc-2c": ", user × item crossed",
    "clickherd-small-logs-amd-epyc-2c": "",
}
TRAINERS = {"clickherd": "clickherd", "LightGBM": "LightGBM", "logistic regression": "scikit-learn"}


def baselines() -> Iterator[Line]:
    """Linear models and trees, and clickherd's defaults or recipe beside them."""
    for name, remark in FILES.items():
        for data_set, entry in read(name)["data_sets"].items():
            for model, found in entry["models"].items():
                title = "DeepFM" if model == "clickherd" else model
                yield Line(
                    data_set,
                    f"{title}{remark}",
                    TRAINERS[model],
                    found["settings"].get("seeds", 1),
                    found["valid"]["auc"],
                    (kept(found["valid"], "auc"), kept(found["test"], "auc"), kept(found["test"], "logloss")),
                    name,
                )


def kept(scores: dict[str, float], key: str) -> str:
    """Mean and, where a file has it, deviation."""
    deviation = scores.get(f"{key}_std")
    return f"{scores[key]:.4f}" + (f" ± {deviation:.4f}" if deviation else "")


def sweep() -> Iterator[Line]:
    """DeepFM with the default rule, at each batch size; at the base no rule changes anything."""
    name = "scale-movielens-1m"
    for row in read(name)["table"]:
        if row["rule"] == "root" or row["batch_size"] == BASE:
            shown = tuple(
                f"{row[key]:.4f}" + (f" ± {row[f'{key}_std']:.4f}" if row[f"{key}_std"] else "")
                for key in ("valid_auc", "test_auc", "test_logloss")
            )
            title = f"DeepFM 128-128, batch {row['batch_size']:,}"
            yield Line("movielens_1m", title, "clickherd", row["seeds"], row["valid_auc"], shown, name)


def histories() -> Iterator[Line]:
    """With what each user liked before."""
    result = read("histories") or {"runs": []}
    for model in dict.fromkeys(run["model"] for run in result["runs"]):
        group = [run for run in result["runs"] if run["model"] == model]
        trainer = "LightGBM" if model == "LightGBM" else "clickherd"
        yield of_runs("histories", model, trainer, group, "histories")


if __name__ == "__main__":
    main()
