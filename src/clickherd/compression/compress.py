"""`clickherd compress`: a trained model in a fraction of its bytes, as a run folder like any other.

What each part of the model costs when it is made smaller is measured one by one (`sensitivity`), the bytes are dealt
out (`allocation`), rows and layers are projected and rounded (`low_rank`, `packing`), and all weights are trained on
for a few epochs (fine-tuning).

FOLDER/               a run folder, and beside what every run has:
  compress.json       the frontier, and which part became what
  compress.md         the same to read, with compress.svg
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from clickherd import checkpoint, machine
from clickherd.compact.config import CompressionConfig
from clickherd.compact.decoder import DecodedModel
from clickherd.compact.ranks import reducible
from clickherd.compression.allocation import Allocation, allocate
from clickherd.compression.low_rank import set_low_rank
from clickherd.compression.sensitivity import SAMPLE, Part, measure
from clickherd.config import Config
from clickherd.data.prepare import Prepared, quiet
from clickherd.errors import RunError
from clickherd.evaluate import evaluate
from clickherd.layers.low_rank import LowRankLinear
from clickherd.loaded import load, load_config
from clickherd.network import ClickModel
from clickherd.observer import Observer
from clickherd.runs import Announce, check_new, create, finish, same_rows
from clickherd.runtime import check_device, precision_here, seeded, use_threads
from clickherd.settings import Settings
from clickherd.start import Start

FRONTIER = (1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0)
SLACK = 0.98  # of a ratio is as good as reached: options come in whole numbers
TIMES = 5  # that the sample is predicted for the time of a row


class CompressConfig(Settings):
    """How small, and what is done about the accuracy."""

    ratio: float = Field(4.0, gt=1, description="bytes of the model's weights, over those of the compressed one's")
    epochs: int = Field(2, ge=0, description="of training on with all weights; 0: none")
    rate: float = Field(0.03, gt=0, description="of that training, as a share of the run's own rates")


def compress_run(
    run: Path,
    settings: CompressConfig,
    out: Path,
    *,
    device: str | None = None,
    threads: int | None = None,
    announce: Announce = quiet,
    observer: Observer | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    report: bool = True,
) -> dict[str, Any]:
    """Leave a smaller model of `run` in the new run folder `out`; returns the content of its metrics.json, and under
    "compression" that of compress.json.

    Raises:
        UserError: no such run, its rows have changed since, or it cannot be made so small.
        Interrupted: `should_stop` said so; `resume_run` goes on from there.
    """
    check_new(out)
    config = load_config(run)
    if config.compression:
        raise RunError(
            "the run is compressed already, has rows of several lengths (dims), or its fields share a table",
            file=run,
            mend="Compress one with a whole table.",
        )
    config = _here(config, device, threads)
    prepared = same_rows(config, run, announce)
    facts, compression, tensors = _smaller(run, config, prepared, settings.ratio, announce)
    facts = {"of": str(run), "settings": settings.model_dump(), **facts}
    train = config.train.model_copy(update={"teacher": str(run.absolute())})
    config = config.model_copy(update={"compression": compression, "train": train})
    create(out, config, prepared, Start(tensors, settings.epochs, settings.rate))
    del tensors
    _write(out, facts)
    result = finish(config, prepared, out, announce, observer, should_stop, report)
    return {**result, "compression": complete(out, prepared)}


def complete(folder: Path, prepared: Prepared) -> dict[str, Any]:
    """Add what became of the model to compress.json and compress.md, once it is trained; returns their facts."""
    facts: dict[str, Any] = json.loads((folder / "compress.json").read_text())
    if "result" not in facts:
        run = load(folder, device=load_config(folder).train.device)
        run.model.calibration = None
        facts["result"] = _Probe(prepared).point(run.model, ratio=facts["settings"]["ratio"], loss=None)
        _write(folder, facts)
    return facts


def _smaller(
    run: Path, config: Config, prepared: Prepared, ratio: float, announce: Announce
) -> tuple[dict[str, Any], CompressionConfig, dict[str, Tensor]]:
    """What is known of the frontier, and the settings and weights of the model that is so many times smaller.

    Raises:
        RunError: it cannot be made so small.
    """
    model = load(run, device=config.train.device).model
    model.calibration = None  # learned anew for the smaller one
    probe = _Probe(prepared)
    announce(f"measuring what each part of {config.model.name} takes and gives, on {len(probe.sample):,} rows")
    began = time.perf_counter()
    before = probe.point(model, ratio=1.0, loss=0.0)
    parts = measure(model, probe.sample, prepared.train, told=announce)
    others = _finished_bytes(made(model, parts, Allocation(tuple(part.options[0] for part in parts)), config))
    others -= sum(part.options[0].num_bytes for part in parts)
    ratios = sorted({*FRONTIER, ratio})
    found = allocate(parts, [round(before["bytes"] / one) - others for one in ratios])
    chosen = found[ratios.index(ratio)]
    smaller = made(model, parts, chosen, config)
    tensors = {name: tensor.clone() for name, tensor in smaller.tensors().items()}
    points = [before]
    for one, allocation in zip(ratios, found, strict=True):
        smaller = made(model, parts, allocation, config)
        smaller.pack()
        points.append(probe.point(smaller, ratio=one, loss=allocation.loss))
    _check_reached(points, ratio, run)
    facts: dict[str, Any] = {
        "frontier": [point for k, point in enumerate(points) if not k or point["bytes"] < points[k - 1]["bytes"]],
        "parts": [
            {
                "name": part.name,
                "field": part.is_field,
                "before": asdict(part.options[0]) | {"num_bytes": part.whole_bytes},
                "after": asdict(option),
            }
            for part, option in zip(parts, chosen.options, strict=True)
        ],
        "seconds": round(time.perf_counter() - began, 3),
        "machine": f"{machine.describe()}, threads: {config.train.threads}, {config.train.device}",
    }
    return facts, chosen.config(parts), tensors


def _here(config: Config, device: str | None, threads: int | None) -> Config:
    """The settings of a run, with what this machine gives and the user asks for."""
    where = device or config.train.device
    precision = precision_here(where, config.train.precision)
    check_device(where, precision)
    update = {"device": where, "threads": use_threads(threads or config.train.threads), "precision": precision}
    return config.model_copy(update={"train": config.train.model_copy(update=update)})


class _Probe:
    """What a model is judged by before and after: the validation rows, and a sample of them for the time of a row."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.sample = (prepared.valid if prepared.valid is not None else prepared.train).sample(SAMPLE, 1)

    def point(self, model: ClickModel, *, ratio: float, loss: float | None) -> dict[str, Any]:
        """A point of the frontier; `loss` is what was expected of the parts' together."""
        valid = evaluate(model, self.prepared.valid).scores if self.prepared.valid is not None else None
        return {
            "ratio": ratio,
            "bytes": model.num_bytes,
            "expected_loss": loss,
            "valid": valid,
            "microseconds_per_row": self._time(model),
        }

    def _time(self, model: ClickModel) -> float:
        times = []
        for _ in range(TIMES):
            began = time.perf_counter()
            model.predict(self.sample)
            times.append(time.perf_counter() - began)
        return statistics.median(times) / len(self.sample) * 1e6


def _finished_bytes(model: ClickModel) -> int:
    model.pack()
    return model.num_bytes


@torch.no_grad()
def made(model: ClickModel, parts: Sequence[Part], allocation: Allocation, config: Config) -> ClickModel:
    """The model with each part as its option says, its rows not rounded yet."""
    compression = allocation.config(parts)
    with seeded(0):  # the weights drawn here are replaced at once
        smaller = ClickModel(config.model, model.layout, device=model.device, compression=compression)
    first = int(model.config.wide)
    smaller.table.weight.zero_()
    width = min(smaller.row_width, model.row_width) + first
    smaller.table.weight[:, :width] = model.table.weight[:, :width]
    of = {part.name: part for part in parts}
    for field in model.layout.fields:
        dim = compression.dims.get(field.name)
        if dim is not None and field.target is None:
            rows, directions = slice(field.offset, field.offset + field.size), of[field.name].directions
            smaller.table.weight[rows, first:] = 0
            centred = model.table.weight[rows, first:] - directions.mean
            smaller.table.weight[rows, first : first + dim] = centred @ directions.top(dim)
    _set_decoder(smaller, of)
    net = smaller.net.inner if isinstance(smaller.net, DecodedModel) else smaller.net
    own, full = net.state_dict(), dict(reducible(model.net))
    for name, tensor in model.net.state_dict().items():
        if name in own:
            own[name].copy_(tensor)
    for name in compression.ranks:
        low, linear = net.get_submodule(name), full[name]
        assert isinstance(low, LowRankLinear)
        set_low_rank(low, linear.weight, linear.bias, of[name].directions)
    return smaller


def _set_decoder(smaller: ClickModel, parts: Mapping[str, Part]) -> None:
    """Let the decoder undo the projection of each field."""
    decoder, fields = smaller.decoder, smaller.layout.fields
    if decoder is None:
        return
    names = [fields[place].target or fields[place].name for place in decoder.positions]
    bases = [parts[name].directions.top(smaller.compression.dims[name]).T for name in names]
    decoder.bases_ND.copy_(torch.cat(bases))
    decoder.mean_RD.copy_(torch.stack([parts[name].directions.mean for name in names]))


def _check_reached(points: Sequence[Mapping[str, Any]], ratio: float, run: Path) -> None:
    """See that the model is as small as is asked for.

    Raises:
        RunError: it is not, because it cannot be.
    """
    reached = next(points[0]["bytes"] / point["bytes"] for point in points if point["ratio"] == ratio)
    if reached < SLACK * ratio:
        most = max(points[0]["bytes"] / point["bytes"] for point in points)
        raise RunError(
            f"the model can be made {most:.2f} times smaller at most, not {ratio:g}",
            file=run,
            mend=f"Ask for a --ratio of {int(most * 10) / 10:g} or less.",
        )


def _write(out: Path, facts: dict[str, Any]) -> None:
    from clickherd.report.compression import write_compression

    checkpoint.write_text(out / "compress.json", json.dumps(facts, indent=1) + "\n")
    write_compression(out, facts)
