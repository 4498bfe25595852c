"""Whether clickherd's networks are FuxiCTR's: the same weights and the same rows must give the same logits.

    git clone https://github.com/reczoo/FuxiCTR benchmarks/.envs/FuxiCTR
    git clone https://github.com/salmon1802/FCN benchmarks/.envs/FCN
    git clone https://github.com/lswhim/rankmixer benchmarks/.envs/rankmixer
    python benchmarks/parity/fuxictr.py [MODEL …]

FuxiCTR's wheel carries the parts of its models; their classes are in the model zoo of its repository, of which the
first command makes a copy. FCN and RankMixer are not among them, and lie beside FuxiCTR's repository: FCN as its
authors published it, made of the same parts; RankMixer, of which no code by its authors was found, as somebody else
wrote it down from the paper. All run in one environment, which is made under benchmarks/.envs when missing. Every
weight of clickherd's network and table is drawn at random and copied to the peer's; a random batch then goes through
both in evaluation mode, in float64. What the peer has beyond the paper is turned off or set to zero, as the adapters
beside this file say; where clickherd's default is another form of the network, the case names the setting.

Without a MODEL all cases run, and the table is written. The exit status is 1 if a difference is more than rounding.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import host
from peers.environments import ENVIRONMENTS, FUXICTR_WITH_CLICKHERD
from tables import grid

BENCHMARKS = Path(__file__).resolve().parent.parent
OTHERS = {  # model → folder beside FuxiCTR's repository, and where it is from
    "fcn": ("FCN", "https://github.com/salmon1802/FCN"),
    "rankmixer": ("rankmixer", "https://github.com/lswhim/rankmixer"),
}
TOLERANCE = 1e-9  # of the logits' spread; float64 keeps 15 digits


def main() -> int:
    """Compare, and write the result."""
    args = read_arguments()
    if not (args.checkout / "model_zoo").is_dir():
        sys.exit(f"no FuxiCTR in {args.checkout}: git clone https://github.com/reczoo/FuxiCTR {args.checkout}")
    for model, (name, source) in OTHERS.items():
        folder = args.checkout.parent / name
        if not folder.is_dir() and (not args.models or model in args.models):
            sys.exit(f"no {name} in {folder}: git clone {source} {folder}")
    FUXICTR_WITH_CLICKHERD.make()
    packages = FUXICTR_WITH_CLICKHERD.packages()
    result = {
        "packages": {name: packages[name] for name in ("fuxictr", "torch", "numpy", "numba")},
        "clickherd_commit": host.commit(),
        "fuxictr_commit": git(args.checkout, "rev-parse", "--short=12", "HEAD"),
        **{
            f"{model}_commit": git(args.checkout.parent / name, "rev-parse", "--short=12", "HEAD")
            for model, (name, _) in OTHERS.items()
        },
        "cases": compared(args.checkout, args.models),
    }
    text = table(result)
    print(text)
    if not args.models:
        file = args.out / "parity-fuxictr.json"
        file.write_text(json.dumps(result, indent=1) + "\n")
        file.with_suffix(".md").write_text(text)
    return int(any(case["difference"] > TOLERANCE * case["spread"] for case in result["cases"]))


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", help="names of clickherd's models; all when none is given"
    )
    parser.add_argument("--checkout", type=Path, default=ENVIRONMENTS / "FuxiCTR", help="FuxiCTR's repository")
    parser.add_argument("--out", type=Path, default=host.RESULTS)
    return parser.parse_args()


def compared(checkout: Path, models: list[str]) -> list[dict[str, Any]]:
    """What `parity.compare` finds, run where both libraries are."""
    command = [str(FUXICTR_WITH_CLICKHERD.python), "-m", "parity.compare", str(checkout), *models]
    paths = {"PYTHONPATH": os.pathsep.join([str(host.REPOSITORY / "src"), str(BENCHMARKS)])}
    # from the folder above this file's: beside this file `import fuxictr` would find this file
    answer = subprocess.run(command, check=False, cwd=BENCHMARKS, env=os.environ | paths, stdout=subprocess.PIPE)
    if answer.returncode:
        sys.exit(answer.returncode)
    cases: list[dict[str, Any]] = json.loads(answer.stdout.splitlines()[-1])
    return cases


def git(folder: Path, *command: str) -> str:
    """What git says about a repository."""
    answer = subprocess.run(["git", "-C", str(folder), *command], capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "unknown"


def table(result: Mapping[str, Any]) -> str:
    """The result in Markdown."""
    packages = result["packages"]
    first = (
        f"FuxiCTR {packages['fuxictr']}, models of its repository at commit {result['fuxictr_commit']}, "
        f"FCN of its authors' at {result['fcn_commit']}, RankMixer of lswhim's at {result['rankmixer_commit']}; "
        f"torch {packages['torch']}, float64, evaluation mode.\n"
        "Command: `python benchmarks/parity/fuxictr.py`\n"
    )
    rows = [
        [
            f"`{case['model']}`",
            ", ".join(f"`{name}={value}`" for name, value in case["settings"].items()) or "defaults",
            case["peer"],
            f"{case['difference']:.1e}",
            f"{case['spread']:.1e}",
            f"{case['weights']:,}",
            case["remark"],
        ]
        for case in result["cases"]
    ]
    head = [
        "model",
        "form",
        "peer's class",
        "largest difference of a logit",
        "logits' standard deviation",
        "weights compared",
        "remark",
    ]
    return f"{first}\n{grid(head, rows)}"


if __name__ == "__main__":
    sys.exit(main())
