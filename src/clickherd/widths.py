"""`clickherd widths`: does a step change what a network computes as much at every width? The coordinate check of μP.

A model is trained for a few batches at several widths, with μP and without. For every layer, the mean over rows and
units of how far its outputs have moved is compared between widths: rates carry over from a narrow model to a wide one
where it stays the same. See `mup` for the equations and their source.

FOLDER/
  widths.json   the result, as `--json` prints it
  report.md     the table, with widths.svg
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from clickherd import checkpoint, machine
from clickherd.config import Config, resolve
from clickherd.data.prepare import Prepared, quiet
from clickherd.data.store import Batch
from clickherd.device_store import TrainingRows
from clickherd.errors import ConfigError
from clickherd.learner import Learner
from clickherd.mup import growths, narrow_config
from clickherd.network import ClickModel
from clickherd.outputs import outputs_of
from clickherd.runs import Announce, check_folder, make_folder, ready
from clickherd.runtime import seeded
from clickherd.train import batch_size_for, begin

SAMPLE = 1024  # rows whose outputs are looked at: one slice of a prediction
SEEDS = 3
LOGIT = "logit"
STEEP = 0.25  # log2 of the factor that a doubling of the width may have
Moved = dict[str, float]  # layer → mean |change| of its outputs


@dataclass(frozen=True)
class Doubling:
    """Widths to look at, as multiples of the narrow model's, and batches to train."""

    times: Sequence[int] = (1, 2, 4, 8)
    steps: int = 40


def check_widths(
    config: Config,
    asked: Doubling,
    folder: Path,
    *,
    announce: Announce = quiet,
) -> dict[str, Any]:
    """Train at every width and leave the comparison in `folder`; returns the content of widths.json.

    The narrow model is `optim.mup_base`, or the model as it is, with its MLP getting wider.

    Raises:
        UserError: settings or data are at fault, or the model has no width to change.
    """
    times = sorted(set(asked.times))
    if len(times) < 2:
        raise ConfigError("a comparison takes two widths at least", mend="Give --times twice, or leave it out.")
    check_folder(folder, ("widths.json",))
    if config.compression:
        raise ConfigError("widths are compared of whole models", mend="Leave the settings of compression out.")
    base = base_of(config)
    for factor in times:
        narrow_config(config.model, widened(base, factor))
    config, prepared = ready(config, announce)
    steps = min(asked.steps, -(-len(prepared.train) // batch_size_for(config, len(prepared.train))))
    found: dict[str, list[Moved]] = {"standard": [], "mup": []}
    for factor in times:
        for way, one in _configs(config, base, factor).items():
            found[way].append(_averaged([_moved(one, prepared, steps, seed) for seed in range(SEEDS)]))
        announce(f"{factor} times the narrow model's width: done")
    readouts = _readouts(_configs(config, base, times[-1])["mup"], prepared)
    result: dict[str, Any] = {
        "model": config.model.name,
        "narrow": base,
        "rows": {"train": len(prepared.train), "compared": min(SAMPLE, len(prepared.train))},
        "seeds": SEEDS,
        "batch_size": config.train.batch_size,
        "steps": steps,
        "times": times,
        "layers": [
            {"name": name, "readout": name in readouts}
            | {way: _line(times, [moved[name] for moved in found[way]]) for way in found}
            for name in found["mup"][0]
        ],
        "machine": f"{machine.describe()}, threads: {config.train.threads}, {config.train.device}",
        "out": str(folder),
    }
    result["holds"] = all(
        layer["mup"]["slope"] <= STEEP and (layer["readout"] or layer["mup"]["slope"] >= -STEEP)
        for layer in result["layers"]
    )
    make_folder(folder)
    checkpoint.write_text(folder / "widths.json", json.dumps(result, indent=1) + "\n")
    from clickherd.report.widths import write_widths

    write_widths(folder, result)
    return result


def base_of(config: Config) -> dict[str, Any]:
    """The settings that get larger.

    Raises:
        ConfigError: the model has no MLP, and no others are named.
    """
    if config.optim.mup_base is not None:
        return config.optim.mup_base
    mlp = getattr(config.model, "mlp", None)
    if mlp is None or not mlp.hidden_units:
        raise ConfigError(
            f"{config.model.name} has no MLP whose width could change",
            mend="Name the narrow model's widths, such as --set optim.mup_base.mlp.hidden_units=[64,64].",
        )
    return {"mlp": {"hidden_units": list(mlp.hidden_units)}}


def widened(base: Any, factor: int) -> Any:
    """The settings with all whole numbers so many times as large."""
    if isinstance(base, dict):
        return {name: widened(value, factor) for name, value in base.items()}
    if isinstance(base, list | tuple):
        return [widened(value, factor) for value in base]
    return base * factor if isinstance(base, int) and not isinstance(base, bool) else base


def _configs(config: Config, base: dict[str, Any], factor: int) -> dict[str, Config]:
    settings = config.model_dump()
    settings["model"] = narrow_config(config.model, widened(base, factor)).model_dump()
    return {
        way: resolve(settings | {"optim": settings["optim"] | {"mup_base": own}})
        for way, own in (("standard", None), ("mup", base))
    }


def _readouts(config: Config, prepared: Prepared) -> set[str]:
    """The layers that have more inputs than in the narrow model, and as many outputs."""
    assert config.optim.mup_base is not None
    model = ClickModel(config.model, prepared.encoder.layout, device="meta")
    narrow = model.network(narrow_config(config.model, config.optim.mup_base), device="meta")
    grown = growths(model, narrow)
    return {name.rpartition(".")[0] for name, one in grown.items() if one.inputs != 1 and one.outputs == 1}


def _moved(config: Config, prepared: Prepared, steps: int, seed: int) -> Moved:
    """How far the outputs of every layer move in so many batches at the full rate, from the seed's weights."""
    train = prepared.train
    sample = train.take(np.arange(min(SAMPLE, len(train))))
    with seeded(seed):
        model = ClickModel(
            config.model, prepared.encoder.layout, init_std=config.optim.init_std, device=config.train.device
        )
        begin(model, config, train)
        before = _outputs(model, sample)
        size = batch_size_for(config, len(train))
        learner = Learner(model, config, size)
        rows = TrainingRows(train, model.device).epoch(seed, 0)
        with learner.workers:
            for step in range(steps):
                learner.step(rows, step * size, min((step + 1) * size, len(train)), learner.hyper)
        learner.settle()
    after = _outputs(model, sample)
    return {name: float((after[name] - before[name]).abs().mean()) for name in before}


def _outputs(model: ClickModel, sample: Batch) -> dict[str, Tensor]:
    """What every linear layer gives for the rows, and the logits."""
    linear = {name: module for name, module in model.net.named_modules() if isinstance(module, nn.Linear)}
    return outputs_of(model, sample, linear | {LOGIT: model.net})


def _averaged(runs: Sequence[Moved]) -> Moved:
    return {name: statistics.fmean(run[name] for run in runs) for name in runs[0]}


def _line(times: Sequence[int], moved: Sequence[float]) -> dict[str, Any]:
    """What moved at each width, and the slope of its logarithm over that of the width; where nothing moved: 0."""
    if min(moved) <= 0:
        return {"moved": list(moved), "slope": 0.0}
    x, y = np.log2(times).tolist(), np.log2(moved).tolist()
    return {"moved": list(moved), "slope": statistics.linear_regression(x, y).slope}
