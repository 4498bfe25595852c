"""How good creatives trained from nothing are: drawn product shots, clothing photos, emoji.

    CLICKHERD_DATA=FOLDER python benchmarks/creative.py products clothing emoji [--seeds 0] [--threads 2] [--runs runs]

Each is one run of `clickherd creative train` and `evaluate --number 128`, as set below.
Run folders stay under --runs, and one that is there goes on. Results are kept in benchmarks/results/creative.json, and
none that is there is repeated.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import datasets
import host
from kept_runs import KeptRuns
from rich.console import Console
from tables import grid

from clickherd.creative import creative_config, evaluate, resume_creative, train_creative
from clickherd.creative.watch import Watch

PICTURES = 128
PRIORS = {"diffusion": "diffusion", "ar": "autoregressive", "none": "none", "image": "the image itself"}


def settings_of(name: str) -> dict[str, Any]:
    """What differs from the preset `cpu`: photos get more steps than drawings and emoji."""
    if name == "products":
        return {}
    images = datasets.root() / "images"
    if name == "clothing":
        return {
            "data": {
                "source": str(images / "clothing_small_96_train.parquet"),
                "valid": str(images / "clothing_small_96_validation.parquet"),
                "image": "jpg_96",
                "caption": "a photo of a {label}",
                "labels": ["label"],
            },
            "decoder": {"steps": 1500},
        }
    return {
        "data": {
            "source": str(images / "noto_emoji_72.parquet"),
            "image": "png",
            "caption": "name",
            "labels": ["group"],
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", choices=["products", "clothing", "emoji"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=host.RESULTS)
    args = parser.parse_args()
    kept = KeptRuns(args.out / "creative.json", ("clickherd", "torch", "diffusers", "transformers"))
    for name in args.sets:
        for seed in args.seeds:
            folder = args.runs / f"creative-{name}-{seed}"
            kept.run({"set": name, "seed": seed}, partial(measured, name, seed, folder, args.threads))
    kept.write(table(kept.runs))


def measured(name: str, seed: int, folder: Path, threads: int | None) -> Mapping[str, Any]:
    watch = Watch(Console(stderr=True))
    shared: dict[str, Any] = {"announce": lambda text: print(text, file=sys.stderr), "observer": watch}
    if folder.exists():
        trained = resume_creative(folder, **shared)
    else:
        settings = {**settings_of(name), "seed": seed, "threads": threads}
        trained = train_creative(creative_config(settings), folder, **shared)
    result = evaluate(folder, number=PICTURES, seed=seed, threads=threads, announce=shared["announce"])
    stages = {
        stage: {key: of[key] for key in ("steps", "seconds", "train_loss", "valid_loss")}
        for stage, of in trained["stages"].items()
    }
    return {"stages": stages, **{key: value for key, value in result.items() if key not in ("run", "machine")}}


def shares_of(of: Mapping[str, Any]) -> list[str]:
    """As asked, seen and never seen; dashes where nobody judged."""
    return [f"{of[name]['all']:.3f}" if name in of else "–" for name in ("seen", "held_out")]


def scores_of(of: Mapping[str, Any]) -> list[str]:
    return [f"{of['fid']:.2f}", f"{of['kid']:.4f}", *shares_of(of)]


def table(runs: list[dict[str, Any]]) -> str:
    """A table of the priors, and one of what is left."""
    by_prior, rest = [], []
    for run in runs:
        title = f"{run['set']}, seed {run['seed']}"
        for prior, name in PRIORS.items():
            if prior not in run["priors"]:
                continue
            of = run["priors"][prior]
            cosine = f"{of['cosine']:.3f}" if "cosine" in of else "–"
            took = f"{1000 * of['seconds_per_embedding']:.1f}" if "seconds_per_embedding" in of else "–"
            by_prior.append([title, name, *scores_of(of), cosine, took])
            if "caption" in of:
                by_prior.append([title, f"{name}, and the caption", *scores_of(of["caption"]), "", ""])
        by_prior.append([title, "real images", "", "", *shares_of(run["real"]), "", ""])
        edits = [
            f"{label} {of['0.5']['changed']:.2f} ("
            + ", ".join(f"{n} {v:.2f}" for n, v in of["0.5"]["kept"].items())
            + ")"
            for label, of in run["edits"].items()
        ]
        memorised = run["memorised"]
        rest.append(
            [
                title,
                f"{run['pictures']}",
                f"{run['inversion_psnr']['inverted']:.1f} / {run['inversion_psnr']['random']:.1f}",
                "; ".join(edits) or "–",
                f"{run['diversity']['made']:.2f} / "
                + (f"{run['diversity']['real']:.2f}" if "real" in run["diversity"] else "–"),
                f"{memorised['share']:.3f} / {memorised['expected_share']:.3f}, {memorised['ratio']:.2f}",
                f"{sum(of['seconds'] for of in run['stages'].values()) / 60:.0f}",
            ]
        )
    first = grid(["run", "prior", "FID", "KID", "as asked", "… never seen", "cosine", "ms an embedding"], by_prior)
    second = grid(
        [
            "run",
            "pictures",
            "inversion / other noise, dB",
            "text diff at θ = 0.5: changed (kept)",
            "diversity / of real images",
            "copies / of real images, distance ratio",
            "minutes of training",
        ],
        rest,
    )
    return f"{first}\n\n{second}\n"


if __name__ == "__main__":
    main()
