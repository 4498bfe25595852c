"""A sweep over batch sizes, scaling rules and seeds on the same encoded rows, and the largest batch that costs nothing.

    FOLDER/
      runs.jsonl         one line per finished run, appended as it ends: what is there is not run again
      scale.json         the result, as `--json` prints it
      report.md          the table, with scale.svg
      recommended.yaml   a recipe: the settings with the batch size and rule that are recommended
      under-way/         the checkpoint of the run that was interrupted

Validation scores decide; test scores stand beside them and choose nothing.
"""

from __future__ import annotations

import json
import math
import shutil
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clickherd import checkpoint, machine
from clickherd.config import Config, dump_yaml, merge, resolve
from clickherd.data.prepare import Prepared, quiet
from clickherd.errors import ConfigError, Interrupted, RunError
from clickherd.evaluate import evaluate
from clickherd.observer import Observer, Silent
from clickherd.optim.scaling import EXPONENTS, scaled
from clickherd.runs import (
    Announce,
    alone_in,
    check_folder,
    check_validation,
    make_folder,
    ready,
    settings_key,
    train_prepared,
)
from clickherd.train import DivergedError

MOST_SIZES, LEAST_UPDATES = 4, 8  # of the batch sizes that are chosen by themselves; updates in an epoch of the largest
MARGIN = 0.0005  # of validation AUC
LOCK = "sweep.lock"
SWEPT = {"optim": {"rule"}, "train": {"batch_size", "seed"}}  # what the runs of a sweep do not have in common


@dataclass(frozen=True)
class Grid:
    """What is swept. Empty parts are chosen: batch sizes from the rows, all rules, three seeds from the config's on."""

    batch_sizes: Sequence[int] = ()
    rules: Sequence[str] = ()
    num_seeds: int = 3

    def check(self, config: Config) -> None:
        """See that there are such rules, before the rows are read.

        Raises:
            ConfigError: there is no such rule.
        """
        for rule in self.rules:
            resolve(merge(config.model_dump(), {"optim": {"rule": rule}}))

    def configs(self, config: Config, num_rows: int) -> list[Config]:
        """The settings of every run, seed by seed, so that a sweep cut short has seen the whole grid.

        Raises:
            ConfigError: a batch size is larger than the rows.
        """
        sizes = sorted(set(self.batch_sizes or batch_sizes_for(num_rows)))
        if sizes[-1] > num_rows:
            raise ConfigError(
                f"a batch of {sizes[-1]:,} is more than the {num_rows:,} training rows", mend="Leave --batch-size out."
            )
        base, seed = config.model_dump(), config.train.seed
        return [
            resolve(merge(base, {"optim": {"rule": rule}, "train": {"batch_size": size, "seed": seed + i}}))
            for i in range(self.num_seeds)
            for size in sizes
            for rule in dict.fromkeys(self.rules or EXPONENTS)
        ]


def batch_sizes_for(num_rows: int) -> list[int]:
    """Up to four batch sizes, each four times the one before; the largest leaves eight updates in an epoch."""
    most = max(num_rows // LEAST_UPDATES, 1)
    return [4**k for k in range(3, 11) if 4**k <= most][-MOST_SIZES:] or [most]


def sweep(
    config: Config,
    grid: Grid,
    folder: Path,
    *,
    margin: float = MARGIN,
    announce: Announce = quiet,
    observer: Callable[[], Observer] = Silent,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Run what the grid asks for and `folder` does not hold yet; returns the content of scale.json.

    The table covers all runs in the folder that differ from `config` in batch size, rule and seed only: a sweep can be
    widened by a second command.

    Raises:
        UserError: settings or data are at fault, there are no validation rows to choose by, or the folder holds another
            sweep or one that is under way.
        Interrupted: `should_stop` said so; the same call goes on from there.
    """
    check_folder(folder, ("runs.jsonl", LOCK))
    grid.check(config)
    config, prepared = ready(config, announce)
    check_validation(prepared, "auc")
    configs = grid.configs(config, len(prepared.train))
    make_folder(folder)
    with alone_in(folder, LOCK):
        runs = _Runs(folder / "runs.jsonl")
        base = settings_key(config, but=SWEPT)
        if runs.by_key and all(run["base"] != base for run in runs.by_key.values()):
            raise RunError(
                "the folder holds a sweep of other rows or settings, whose report this one would replace",
                file=folder,
                mend="Choose another --out.",
            )
        missing = [one for one in configs if settings_key(one) not in runs.by_key]
        announce(f"runs: {len(configs)} in all, {len(configs) - len(missing)} finished before; results in {folder}")
        for number, one in enumerate(missing, start=len(configs) - len(missing) + 1):
            run = _run(one, prepared, folder, observer, should_stop)
            runs.append(run)
            announce(f"{number}/{len(configs)}  {_told(run)}")
            if should_stop():
                raise Interrupted(folder)
        of_base = [run for run in runs.by_key.values() if run["base"] == base]
        return _write_result(config, prepared, of_base, margin, folder)


def _run(
    config: Config, prepared: Prepared, folder: Path, observer: Callable[[], Observer], should_stop: Callable[[], bool]
) -> dict[str, Any]:
    """Train once, from the checkpoint on if it was interrupted, and judge; a run that diverges says so."""
    size = config.train.batch_size
    assert size is not None
    key, hyper = settings_key(config), asdict(scaled(config.optim, size))
    run = {
        "key": key,
        "base": settings_key(config, but=SWEPT),
        "batch_size": size,
        "rule": config.optim.rule,
        "seed": config.train.seed,
        "hyper": {name: value if math.isfinite(value) else None for name, value in hyper.items()},
    }
    under_way = folder / "under-way" / key
    try:
        model, progress = train_prepared(config, prepared, under_way, quiet, observer(), should_stop)
    except DivergedError as error:
        return run | {"failed": error.what}
    test = evaluate(model, prepared.test).scores if prepared.test is not None else None
    shutil.rmtree(under_way)
    clipped = [record["clipped_fraction"] for record in progress.history if record["clipped_fraction"] is not None]
    return run | {
        "epochs": progress.epoch,
        "best_epoch": progress.best_epoch,
        "valid": progress.history[progress.best_epoch - 1]["valid"],
        "valid_auc_by_epoch": [record["valid"]["auc"] for record in progress.history],
        "test": test,
        "seconds": round(progress.seconds, 3),
        "rows_per_second": round(progress.rows / progress.seconds, 1),
        "clipped_fraction": statistics.mean(clipped) if clipped else None,
    }


def table(runs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A record for each batch size and rule: means over seeds, and for scores their standard deviations."""
    order = {rule: place for place, rule in enumerate(EXPONENTS)}
    groups: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    for run in sorted(runs, key=lambda run: (run["batch_size"], order[run["rule"]], run["seed"])):
        groups.setdefault((run["batch_size"], run["rule"]), []).append(run)
    return [_cell(size, rule, group) for (size, rule), group in groups.items()]


def _cell(size: int, rule: str, group: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    done = [run for run in group if "failed" not in run]
    whole = len(done) == len(group)  # a mean without the runs that diverged would be praise for those that did not

    def mean(values: list[Any]) -> float | None:
        return statistics.mean(values) if whole and values and None not in values else None

    def scores(split: str, name: str) -> list[Any]:
        return [run[split][name] for run in done if run[split]]

    cell: dict[str, Any] = {"batch_size": size, "rule": rule, "seeds": len(group), "diverged": len(group) - len(done)}
    for split in ("valid", "test"):
        for name in ("auc", "logloss"):
            values = scores(split, name)
            cell[f"{split}_{name}"] = average = mean(values)
            spread = average is not None and len(values) > 1
            cell[f"{split}_{name}_std"] = statistics.stdev(values) if spread else None
    cell["epochs"] = [run["epochs"] for run in done]
    cell["best_epochs"] = [run["best_epoch"] for run in done]
    for name in ("seconds", "rows_per_second", "clipped_fraction"):
        cell[name] = mean([run[name] for run in done])
    return cell


def recommend(cells: Iterable[Mapping[str, Any]], margin: float) -> dict[str, Any] | None:
    """The largest batch whose mean validation AUC is within `margin` of the best, with its best rule.

    None where every cell has a run that diverged.
    """
    scored = [cell for cell in cells if cell["valid_auc"] is not None]
    if not scored:
        return None
    best = max(scored, key=lambda cell: cell["valid_auc"])
    within = [cell for cell in scored if cell["valid_auc"] >= best["valid_auc"] - margin]
    chosen = max(within, key=lambda cell: (cell["batch_size"], cell["valid_auc"]))
    spreads = [cell["valid_auc_std"] for cell in (best, chosen) if cell["valid_auc_std"] is not None]
    return {
        "batch_size": chosen["batch_size"],
        "rule": chosen["rule"],
        "valid_auc": chosen["valid_auc"],
        "best": {name: best[name] for name in ("batch_size", "rule", "valid_auc")},
        "spread": max(spreads) if spreads else None,
    }


def comparable(runs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The runs to choose by: those with the seeds that every batch size and rule has, or all where there is none.

    A sweep that was widened has more seeds in some cells, and a seed that is harder than the others would count there
    alone. A batch size and rule of which any run diverged is left out, whatever its seed.
    """
    diverged = {(run["batch_size"], run["rule"]) for run in runs if "failed" in run}
    whole = [run for run in runs if (run["batch_size"], run["rule"]) not in diverged]
    common = set.intersection(*_seeds(whole).values()) if whole else set()
    return [run for run in whole if run["seed"] in common] if common else whole


def _seeds(runs: Iterable[Mapping[str, Any]]) -> dict[tuple[int, str], set[int]]:
    """The seeds of each batch size and rule."""
    seeds: dict[tuple[int, str], set[int]] = {}
    for run in runs:
        seeds.setdefault((run["batch_size"], run["rule"]), set()).add(run["seed"])
    return seeds


def recommendation_lines(result: Mapping[str, Any]) -> list[str]:
    """The recommendation in words, with what a reader should know of it."""
    chosen, margin = result["recommended"], result["margin"]
    if chosen is None:
        return ["No recommendation: at every batch size and rule a run diverged. Lower optim.learning_rate."]
    best = chosen["best"]
    lines = [
        f"Recommended: batch {chosen['batch_size']:,} with rule {chosen['rule']}, the largest within {margin:g} of the "
        f"best validation AUC ({chosen['valid_auc']:.4f}; best {best['valid_auc']:.4f} at {best['batch_size']:,} with "
        f"{best['rule']})."
    ]
    if note := result["unequal_seeds"]:
        lines.append(f"Not every batch size and rule has the same seeds: {note}; the table has the means of all.")
    if chosen["spread"] is None:
        lines.append("One seed only: how far scores differ by chance is not known; --seeds 3 tells.")
    elif chosen["spread"] > margin:
        lines.append(
            f"Seeds differ by more than the margin (standard deviation {chosen['spread']:.4f}): more of them, or a "
            "wider --margin, make the choice firmer."
        )
    return lines


def _unequal_seeds(runs: Sequence[Mapping[str, Any]], compared: Sequence[Mapping[str, Any]]) -> str | None:
    """By which seeds was chosen, where some batch sizes and rules have others."""
    decided, every = _seeds(compared), _seeds(runs)
    has = [every[cell] for cell in decided]
    if all(seeds == has[0] for seeds in has):
        return None
    common = set.intersection(*has)
    if not common:
        return "they have none in common, and their own decided"
    return f"seed {', '.join(map(str, sorted(common)))} decided"


def _write_result(
    config: Config, prepared: Prepared, runs: list[dict[str, Any]], margin: float, folder: Path
) -> dict[str, Any]:
    from clickherd.report.sweep import write_sweep

    cells, compared = table(runs), comparable(runs)
    splits = {"train": prepared.train, "valid": prepared.valid, "test": prepared.test}
    result: dict[str, Any] = {
        "model": config.model.name,
        "rows": {name: len(store) if store is not None else 0 for name, store in splits.items()},
        "margin": margin,
        "recommended": recommend(table(compared), margin),
        "unequal_seeds": _unequal_seeds(runs, compared),
        "table": cells,
        "runs": runs,
        "machine": f"{machine.describe()}, threads: {config.train.threads}, {config.train.device}",
        "out": str(folder),
    }
    if chosen := result["recommended"]:
        own = {"optim": {"rule": chosen["rule"]}, "train": {"batch_size": chosen["batch_size"], "threads": None}}
        recipe = resolve(merge(config.model_dump(), merge(own, {"source": {"fingerprint": None}})))
        head = f"# {recommendation_lines(result)[0]}\n"
        checkpoint.write_text(folder / "recommended.yaml", head + dump_yaml(recipe))
    checkpoint.write_text(folder / "scale.json", json.dumps(result, indent=1) + "\n")
    write_sweep(folder, result, recommendation_lines(result))
    return result


class _Runs:
    """The finished runs in a file, by key; a last line that was cut off is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.by_key: dict[str, dict[str, Any]] = {}
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        if whole != text or not path.exists():  # the file also says whose folder this is
            checkpoint.write_text(path, whole)
        try:
            records = [json.loads(line) for line in whole.splitlines()]
            self.by_key |= {record["key"]: record for record in records}
        except (json.JSONDecodeError, KeyError, TypeError):
            raise RunError("not a sweep's list of runs", file=path, mend="Choose another --out.") from None

    def append(self, run: dict[str, Any]) -> None:
        """Keep a run."""
        self.by_key[run["key"]] = run
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(run) + "\n")


def _told(run: Mapping[str, Any]) -> str:
    """A finished run in a line."""
    name = f"batch {run['batch_size']:,}  {run['rule']}  seed {run['seed']}"
    if "failed" in run:
        return f"{name}  diverged"
    return (
        f"{name}  valid AUC {run['valid']['auc']:.4f}  epoch {run['best_epoch']} of {run['epochs']}  "
        f"{run['seconds']:.1f} s  {run['rows_per_second']:,.0f} rows/s"
    )
