"""Pictures from words, from nothing: CLIP, two priors and a decoder trained on drawn product shots, then judged.

    python examples/creative_demo.py [--out runs/creative-demo] [--number 12000]

This is what `make creative-demo` runs, and the Python API of creatives in one page. Cut short, it goes on where it was.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from clickherd.creative import creative_config, evaluate, load, resume_creative, train_creative
from clickherd.creative.page import told
from clickherd.creative.watch import Watch

err = Console(stderr=True)


def say(message: str) -> None:
    err.print(message, highlight=False, markup=False, soft_wrap=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/creative-demo"))
    parser.add_argument("--number", type=int, default=12_000, help="training images")
    args = parser.parse_args()
    began = time.monotonic()
    if args.out.exists():
        resume_creative(args.out, announce=say, observer=Watch(err))
    else:
        config = creative_config({"data": {"source": "products", "number": args.number}})
        train_creative(config, args.out, announce=say, observer=Watch(err))
    result = evaluate(args.out, number=128, announce=say)
    load(args.out).generate("a red mug on the left, white background", 8).save(args.out / "pictures" / "red-mug")

    table = Table("", "pictures", "real images")
    for row in told(result):
        table.add_row(*row)
    Console().print(table)
    say(f"{(time.monotonic() - began) / 60:.1f} minutes; pictures and scores in {args.out / 'report.html'}")


if __name__ == "__main__":
    main()
