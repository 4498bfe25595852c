"""Training speed of each model at one large batch, beside FuxiCTR's own class of it, on the same rows.

    git clone https://github.com/reczoo/FuxiCTR
    python benchmarks/data.py DATA --tail-exponent 1.235
    python benchmarks/zoo_speed.py DATA --fuxictr FuxiCTR

The categorical columns alone: numbers enter FuxiCTR's networks as embeddings, clickherd's as they are. Networks are of
the same sizes on both sides (`MODELS`); the rest is what each trainer does by default, so clickherd also decays and
averages its weights. A measurement is a process of its own. It fits one batch that does not count, and times the
trainer's own `fit` over the next rows, loader and all; clickherd's checkpoint does not count, the 1,024 validation rows
that FuxiCTR cannot do without do. Models that FuxiCTR does not have (`fcn`, `rankmixer`, `dcnv2_mix`) are left out, and
`din`, whose rows hold histories. The two trainers take turns; a ratio is that of a round.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from driver import add_machine_arguments, answer_of, environment, head, result_file, write_table
from peers.environments import KNOWN, PEERS
from peers.measure import read_fields, read_rows
from tables import by_round, grid, machine_line, quotient, spread

UNITS = [400, 400, 400]
VALIDATION_ROWS = 1024
RUNNERS = {"clickherd": "fit_clickherd.py", "fuxictr": "fit_fuxictr.py"}


@dataclass(frozen=True)
class Pair:
    """One network, as each side is told to build it. What is not said is clickherd's default, and of the same size."""

    peer: str
    options: dict[str, Any]
    model: dict[str, Any]


MODELS = {
    "lr": Pair("LR", {}, {}),
    "fm": Pair("FM", {}, {}),
    "wide_deep": Pair("WideDeep", {"hidden_units": UNITS}, {}),
    "deepfm": Pair("DeepFM", {"hidden_units": UNITS}, {}),
    "dcn": Pair("DCN", {"dnn_hidden_units": UNITS, "num_cross_layers": 3}, {}),
    "dcnv2": Pair("DCNv2", {"parallel_dnn_hidden_units": UNITS, "num_cross_layers": 3}, {}),
    "xdeepfm": Pair("xDeepFM", {"dnn_hidden_units": UNITS, "cin_hidden_units": [32, 32, 32]}, {}),
    "autoint": Pair(
        "AutoInt",
        {
            "dnn_hidden_units": UNITS, "attention_layers": 3, "attention_dim": 64, "num_heads": 2, "layer_norm": True,
            "use_scale": True,
        },
        {"form": "fuxictr", "mlp": {"hidden_units": UNITS}},
    ),
    "ipnn": Pair("PNN", {"hidden_units": UNITS}, {}),
    "fgcnn": Pair("FGCNN", {"dnn_hidden_units": UNITS, "conv_batch_norm": False}, {}),
    "edcn": Pair("EDCN", {"num_cross_layers": 3}, {"cross_residual": False, "batch_norm": False}),
    "masknet": Pair("MaskNet", {"dnn_hidden_units": UNITS}, {}),
    "finalmlp": Pair(
        "FinalMLP",
        {"mlp1_hidden_units": UNITS, "mlp2_hidden_units": [400], "num_heads": 2, "fs_hidden_units": [400]},
        {},
    ),
    "finalnet": Pair(
        "FinalNet",
        {"block1_hidden_units": [400, 400], "block2_hidden_units": [400], "use_feature_gating": True},
        {
            "block": {"hidden_units": [400, 400], "batch_norm": True},
            "block2": {"hidden_units": [400], "batch_norm": True},
        },
    ),
}  # fmt: skip


def main() -> None:
    args = arguments()
    for trainer in RUNNERS:
        KNOWN[trainer].environment.make()
    file = result_file(args, "zoo-speed")
    result = head(args) | {"batch_size": args.batch_size, "rows": args.rows, "runs": []}
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        result["ids"] = write_rows(args, Path(folder))
        for run in measurements(args):
            result["runs"].append(run | measure(run, args, Path(folder)))
            file.write_text(json.dumps(result, indent=1) + "\n")
            print(json.dumps(result["runs"][-1]), flush=True)
    write_table(file, table(result))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder written by benchmarks/data.py")
    parser.add_argument("--fuxictr", type=Path, required=True, help="a clone of FuxiCTR's repository")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--batch-size", type=int, default=65_536)
    parser.add_argument("--rows", type=int, default=196_608, help="of a timed fit")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=900, help="seconds after which a measurement is given up")
    add_machine_arguments(parser)
    return parser.parse_args()


def measurements(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A B A B for one model, then the next."""
    for model, round_, trainer in itertools.product(args.models, range(args.rounds), RUNNERS):
        yield {"model": model, "round": round_, "trainer": trainer}


def write_rows(args: argparse.Namespace, folder: Path) -> int:
    """Write a warm-up batch, the timed rows and a few to validate, as both trainers read them; returns how many ids."""
    fields = read_fields(args.data)
    start = 0
    for part, count in (("warm", args.batch_size), ("train", args.rows), ("valid", VALIDATION_ROWS)):
        rows = read_rows(args.data, "train", start, start + count)
        if len(rows.labels) < count:
            sys.exit(f"{args.data}: {start + count:,} training rows are asked for, it has {start + len(rows.labels):,}")
        columns = {name: rows.ids[:, j].astype(np.int64) for j, name in enumerate(fields.categorical)}
        np.savez(folder / f"{part}.npz", **columns, label=rows.labels.astype(np.int64))
        start += count
    return sum(fields.categorical.values())


def measure(run: Mapping[str, Any], args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds and rows a second, or why there are none."""
    pair, trainer = MODELS[run["model"]], run["trainer"]
    job = {
        "checkout": str(args.fuxictr.resolve()),
        "model": pair.peer if trainer == "fuxictr" else run["model"],
        "settings": pair.options if trainer == "fuxictr" else pair.model,
        "rows": str(folder),
        "vocabulary": read_fields(args.data).categorical,
        "seed": run["round"],
        "threads": args.threads,
        "batch_size": args.batch_size,
    }
    (folder / "job.json").write_text(json.dumps(job))
    peer = KNOWN[trainer]
    command = [peer.environment.python, PEERS / RUNNERS[trainer], folder / "job.json"]
    return answer_of(command, environment(peer, args.threads), args.timeout)


def table(result: Mapping[str, Any]) -> str:
    """A line a model."""
    runs = result["runs"]
    lines = []
    for model in dict.fromkeys(run["model"] for run in runs):
        pace, peak = (
            {name: by_round(runs, key, model=model, trainer=name) for name in RUNNERS}
            for key in ("rows_per_second", "peak_rss_mib")
        )
        weights = [set(by_round(runs, "weights", model=model, trainer=name).values()) for name in RUNNERS]
        lines.append(
            [
                f"`{model}`",
                *(spread(pace[name], "{:,.0f}") for name in RUNNERS),
                spread(quotient(*pace.values()), "{:.2f}") if all(pace.values()) else "–",
                *(spread(peak[name], "{:,.0f}") for name in RUNNERS),
                " / ".join(f"{min(found):,}" for found in weights if found),
            ]
        )
    names = [KNOWN[name].title for name in RUNNERS]
    columns = [*(f"{name}, rows/s" for name in names), "ratio", *(f"{name}, peak MiB" for name in names)]
    return (
        f"Batches of {result['batch_size']:,} rows, {result['rows']:,} rows a fit, {result['ids']:,} ids, categorical "
        f"columns alone; median (lowest–highest) of the rounds.\n{machine_line(result)}\n"
        f"{grid(['model', *columns, 'weights beside the ids'], lines)}"
        + "".join(f"\n- {r['model']}, {r['trainer']}: {r['error']}" for r in runs if "error" in r)
    )


if __name__ == "__main__":
    main()
