"""DeepFM on Criteo-shaped rows on one GPU: are the kernels right, how long does training take, and where does it go?

    python benchmarks/gpu.py                                  # 45.8M rows, 33.8M ids, 10 epochs at batch 131,072
    python benchmarks/gpu.py --rows 5000000 --epochs 1        # a smaller run
    TRITON_INTERPRET=1 python benchmarks/gpu.py --check-only  # the kernels alone, without a GPU

Rows are drawn on the device: 26 fields of Criteo's sizes with Zipf ids, 13 numbers, clicks from planted effects of the
ids, so that the AUC tells whether anything was learnt. The clock covers all that follows encoding: rows to the device,
the model's start, training, and scoring the test rows. The parts of a step are then timed one by one, beside the least
time that their bytes and products need at the speed of this device's own copies and matrix products.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gpu_kernels
import host
import numpy as np
import torch
from criteo import CRITEO, NUM_NUMERIC, ZIPF, layout_of
from torch import nn

from clickherd import metrics
from clickherd.config import Config, load_yaml, merge, resolve
from clickherd.data.store import Layout
from clickherd.device_store import DeviceEpoch, DeviceStore, device_order, loaded
from clickherd.kernels import AdamStep
from clickherd.learner import Learner
from clickherd.network import ClickModel, micro_batches
from clickherd.optim.scaling import warmed_up
from clickherd.runtime import check_device, seeded

RECIPE = host.REPOSITORY / "recipes" / "criteo" / "deepfm_128k.yaml"
EFFECT = 0.25
TEST_SHARE = 0.1
EVALUATED = 65_536  # rows scored at a time
REPEATS = 20


def draw(layout: Layout, num_rows: int, device: torch.device) -> DeviceStore:
    """Rows in device memory. Ids follow Zipf's law by rank: vocabularies are ordered by count as well."""
    generator = torch.Generator(device).manual_seed(0)
    ids = torch.empty(num_rows, len(layout.fields), dtype=torch.int32, device=device)
    effects = torch.randn(layout.num_ids, generator=generator, device=device) * EFFECT
    logits = torch.full((num_rows,), -1.3, device=device)
    for f, field in enumerate(layout.fields):
        uniform = torch.rand(num_rows, generator=generator, device=device, dtype=torch.float64)
        rank = ((field.size + 1) ** (1 - ZIPF) - 1) * uniform + 1
        ids[:, f] = field.offset + (rank ** (1 / (1 - ZIPF)) - 1).long().clamp(0, field.size - 1)
        logits += effects[ids[:, f].long()]
    numeric = torch.rand(num_rows, NUM_NUMERIC, generator=generator, device=device)
    labels = (torch.rand(num_rows, generator=generator, device=device) < logits.sigmoid()).float()
    return DeviceStore(ids, (), numeric, labels)


def measure(config: Config, layout: Layout, num_rows: int, device: torch.device) -> dict[str, Any]:
    """Train, score, and time the parts of a step."""
    store = draw(layout, num_rows, device)
    num_test = int(num_rows * TEST_SHARE)
    train, test = (
        DeviceStore(store.ids[part], (), store.numeric[part], store.labels[part])
        for part in (slice(num_test, None), slice(num_test))
    )
    seconds = {"rows to the device": seconds_to_load(store, device)}
    clock = Clock(device)
    with seeded(config.train.seed):
        model = ClickModel(config.model, layout, init_std=config.optim.init_std, device=device)
        assert config.train.batch_size is not None
        learner = Learner(model, config, config.train.batch_size)
    seconds["model and optimisers"] = clock.lap()
    num_train, batch_size = len(train.labels), learner.batch_size
    steps = -(-num_train // batch_size)
    epochs, losses = [], []
    for epoch in range(config.train.epochs):
        rows = DeviceEpoch(train, device_order(config.train.seed, epoch, num_train, device))
        loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        for step in range(steps):
            start, stop = step * batch_size, min((step + 1) * batch_size, num_train)
            hyper = warmed_up(learner.hyper, epoch * steps + step, config.optim.warmup_epochs * steps)
            loss, tally = learner.step(rows, start, stop, hyper)
            loss_sum += loss * (stop - start)
        learner.settle()
        losses.append(float(loss_sum) / num_train)
        epochs.append(clock.lap())
    seconds["training"] = sum(epochs)
    auc, logloss = scores(model, test)
    seconds["scoring"] = clock.lap()
    return {
        "rows": {"train": num_train, "test": num_test},
        "ids": layout.num_ids,
        "batch_size": batch_size,
        "micro_batch_size": learner.micro_batch_size,
        "lag": learner.embedding.lag,
        "seconds": seconds | {"total": sum(seconds.values())},
        "epoch_seconds": epochs,
        "step_ms": {"first epoch": 1e3 * epochs[0] / steps, "last epoch": 1e3 * epochs[-1] / steps},
        "train_loss": losses,
        "test": {"auc": auc, "logloss": logloss},
        "peak_device_gib": torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None,
        "parts": parts(learner, train, float(tally[0]), config.train.precision),
    }


class Clock:
    """Seconds between laps, all work of the device included."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.began = device, 0.0
        self.lap()

    def lap(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        before, self.began = self.began, time.perf_counter()
        return self.began - before


def seconds_to_load(store: DeviceStore, device: torch.device) -> float:
    """For columns of the same shapes from host memory, as training does it with the encoded rows."""
    columns = [np.ones(tuple(column.shape), np.float32) for column in (store.ids, store.numeric, store.labels)]
    clock = Clock(device)
    for column in columns:
        loaded(column, device)
    return clock.lap()


@torch.inference_mode()
def scores(model: ClickModel, test: DeviceStore) -> tuple[float, float]:
    """AUC and logloss."""
    model.net.eval()
    found = []
    for start, stop in micro_batches(len(test.labels), EVALUATED):
        rows_BFD, wide_B = model.table.gather(test.ids[start:stop])
        found.append(model.net(rows_BFD, wide_B, test.numeric[start:stop]).double().sigmoid())
    y_true, y_score = test.labels.cpu().numpy(), torch.cat(found).cpu().numpy()
    return metrics.auc(y_true, y_score), metrics.logloss(y_true, y_score)


@dataclass(frozen=True)
class Part:
    """One part of a step, and the least that it must move and multiply."""

    name: str
    run: Callable[[], object]
    num_bytes: float
    flop: float = 0.0


def parts(learner: Learner, store: DeviceStore, touched: float, precision: str) -> list[dict[str, Any]]:
    """Milliseconds of each part of a full batch, measured alone, and by the roofline."""
    model, optimizer = learner.model, learner.embedding
    device, kernels = model.device, model.table.kernels
    size = min(learner.batch_size, learner.micro_batch_size, len(store.labels))
    share = learner.batch_size / size  # of these micro-batches make a batch
    epoch = DeviceEpoch(store, device_order(0, 0, len(store.labels), device))
    batch = epoch.take(0, size)
    rows_BFD, wide_B = model.table.gather(batch.ids)
    rows_BFD.requires_grad_()
    wide_B.requires_grad_()
    num_ids, width = model.table.weight.shape
    lookups, dim = batch.ids.numel(), rows_BFD.shape[2]
    hidden = [layer for layer in model.net.modules() if isinstance(layer, nn.Linear)]
    item = 2 if learner.bf16 else 4
    product_flop = 6 * size * sum(layer.weight.numel() for layer in hidden)  # forward, and two products on the way back
    activation_bytes = 12 * item * size * sum(layer.out_features for layer in hidden)  # read or written twelve times

    def forward_backward() -> None:
        rows_BFD.grad = wide_B.grad = None
        with torch.autocast(device.type, torch.bfloat16, enabled=learner.bf16):
            logits_B = model.net(rows_BFD, wide_B, batch.numeric).float()
        nn.functional.binary_cross_entropy_with_logits(logits_B, batch.labels, reduction="sum").backward()

    grad_rows, grad_wide = torch.zeros_like(rows_BFD), torch.zeros_like(wide_B)
    adam = AdamStep(10_000, 0.0, 0.0, learner.hyper.clip, 1e-5, 0.9, 0.999, 1e-7)
    table = (model.table.weight, optimizer.exp_avg_VW, optimizer.exp_avg_sq_VW)
    gradients = (optimizer.grad_VW, optimizer.counts_V)
    current_V = torch.zeros_like(optimizer.counts_V)

    def catch_up_and_update() -> None:
        """As a batch does whose rows waited a step; the counts need not be there."""
        current_V.zero_()
        ids_N = batch.ids.flatten()
        kernels.catch_up(*table, current_V, ids_N, [replace(adam, step=1)])
        kernels.cowclip_adam_rows(*table, *gradients, current_V, ids_N, model.table.wide, replace(adam, step=2))

    timed = [
        Part("take rows", lambda: epoch.take(0, size), 8 * size * (batch.ids.shape[1] + NUM_NUMERIC + 1)),
        Part(
            "gather",
            lambda: kernels.gather(model.table.weight, batch.ids, (), model.table.wide),
            4 * lookups * (1 + width + dim),
        ),
        Part("forward, backward", forward_backward, activation_bytes, product_flop),
        Part(
            "scatter_add",
            lambda: kernels.scatter_add(*gradients, batch.ids, (), grad_rows, grad_wide),
            4 * lookups * (1 + dim) + 8 * touched * (width + 1),
        ),
        Part(
            "pass over the table",
            lambda: kernels.cowclip_adam(*table, *gradients, model.table.wide, adam),
            4 * num_ids * (6 * width + 1),
        ),
        Part(
            "catch up and update the rows touched (in place of the pass)",
            catch_up_and_update,
            16 * lookups + 4 * touched * (12 * width + 4) + 4 * num_ids,
        ),
        Part(
            "Adam of the dense weights",
            lambda: learner.dense.update(0.0),
            28 * sum(p.numel() for p in model.net.parameters()),
        ),
    ]
    bandwidth, flops = roofs(device, precision)
    found = []
    for part in timed:
        once = part.name.startswith(("pass", "catch", "Adam"))
        times = 1.0 if once else share
        ideal = max(part.num_bytes / bandwidth, part.flop / flops)
        found.append(
            {
                "part": part.name,
                "gb": times * part.num_bytes / 1e9,
                "gflop": times * part.flop / 1e9,
                "roofline_ms": 1e3 * times * ideal,
                "measured_ms": 1e3 * times * seconds_of(part.run, device),
            }
        )
    return [{"part": "this device", "gb_per_s": bandwidth / 1e9, "tflop_per_s": flops / 1e12}, *found]


def roofs(device: torch.device, precision: str) -> tuple[float, float]:
    """Bytes and FLOP a second that a large copy and a large product attain here."""
    large = 1 << (28 if device.type == "cuda" else 20)
    source, target = torch.ones(large, device=device), torch.empty(large, device=device)
    bandwidth = 8 * large / seconds_of(lambda: target.copy_(source), device)
    side = 8192 if device.type == "cuda" else 256
    a = torch.ones(side, side, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    return bandwidth, 2 * side**3 / seconds_of(lambda: a @ a, device)


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """The mean of some runs, after two that do not count."""
    run(), run()
    clock = Clock(device)
    for _ in range(REPEATS):
        run()
    return clock.lap() / REPEATS


def table_of(result: dict[str, Any]) -> str:
    """The budget of a step, for people."""
    roof, *timed = result["parts"]
    lines = [
        f"this device: {roof['gb_per_s']:,.0f} GB/s, {roof['tflop_per_s']:.1f} TFLOP/s in {result['precision']}",
        "",
        "| part of a step | GB | GFLOP | roofline ms | measured ms |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {p['part']} | {p['gb']:.2f} | {p['gflop']:.0f} | {p['roofline_ms']:.2f} | {p['measured_ms']:.2f} |"
        for p in timed
    ]
    step, seconds = result["step_ms"], result["seconds"]
    return "\n".join(
        [
            *lines,
            f"| **whole step** (lag {result['lag']}) | | | | {step['last epoch']:.2f} |",
            "",
            f"{result['epochs']} epochs of {result['rows']['train']:,} rows: {seconds['total']:.1f} s "
            f"({', '.join(f'{name} {value:.1f}' for name, value in seconds.items() if name != 'total')}); "
            f"test AUC {result['test']['auc']:.4f}, logloss {result['test']['logloss']:.4f}",
        ]
    )


def machine(device: torch.device) -> dict[str, Any]:
    """The host, and the GPU by name."""
    described = host.describe(("torch", "triton", "numba", "numpy"))
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        described |= {
            "gpu": properties.name,
            "gpu_memory_gib": round(properties.total_memory / 2**30, 1),
            "gpu_multiprocessors": properties.multi_processor_count,
            "cuda": torch.version.cuda,
        }
    return described


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=45_840_617, help="a tenth of them are test rows")
    parser.add_argument("--ids", type=int, default=sum(CRITEO))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=131_072)
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="fp32")
    parser.add_argument("--no-cuda-graphs", action="store_true")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--check-only", action="store_true", help="hold the kernels to the reference and stop")
    parser.add_argument("--out", type=Path, help="the JSON; by default benchmarks/results/gpu-NAME-PRECISION.json")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    interpreted = args.check_only and os.environ.get("TRITON_INTERPRET") == "1"
    device = torch.device("cpu" if interpreted else args.device)
    if not interpreted and not torch.cuda.is_available():
        print(
            "benchmarks/gpu.py: torch finds no CUDA device. Without one, the kernels alone can be checked: "
            "TRITON_INTERPRET=1 python benchmarks/gpu.py --check-only",
            file=sys.stderr,
        )
        return 2
    check_device(str(device), args.precision)
    told = gpu_kernels.check(device, *((300, 100) if interpreted else (200_000, 50_000)))
    print("\n".join(told) or "the Triton kernels give what the reference gives", file=sys.stderr)
    if told or args.check_only:
        return int(bool(told))
    config = configured(args)
    result = {"command": host.command(), "machine": machine(device), "precision": args.precision, "epochs": args.epochs}
    result |= {"cuda_graphs": config.train.cuda_graphs, **measure(config, layout_of(args.ids), args.rows, device)}
    name = "-".join(re.findall(r"[a-z0-9]+", torch.cuda.get_device_name(device).lower()))
    out = args.out or host.RESULTS / f"gpu-{name}-{args.precision}.json"
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(table_of(result))
    print(f"written: {out}", file=sys.stderr)
    return 0


def configured(args: argparse.Namespace) -> Config:
    """The published recipe at the batch size, on the device."""
    train = {
        "batch_size": args.batch_size,
        "epochs": args.epochs,
        "precision": args.precision,
        "cuda_graphs": not args.no_cuda_graphs,
        "device": args.device,
    }
    return resolve(merge(load_yaml(RECIPE), {"train": train}))


if __name__ == "__main__":
    sys.exit(main())
