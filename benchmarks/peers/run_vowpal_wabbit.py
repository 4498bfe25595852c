"""Vowpal Wabbit over a text file, one pass, as its command line does it. The variant: `linear`, or `pairs` of fields.

An id is a number of its own across all fields, so ids do not collide; the features of pairs are hashed. Writing the
text file is not timed, reading it is: Vowpal Wabbit learns while it reads. Its rows stand in random order.
"""

from __future__ import annotations

from typing import Any

import measure
import numpy as np
import numpy.typing as npt
from vowpalwabbit import Workspace

BITS = {"linear": 22, "pairs": 25}  # 2^bits weights
CHUNK_ROWS = 65_536


class VowpalWabbit:
    def __init__(self, job: measure.Job, fields: measure.Fields) -> None:
        self.folder = job.scratch / "vowpal-wabbit"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.fields = fields
        sizes = list(fields.categorical.values())
        if sum(sizes) > 1 << BITS["linear"]:
            raise SystemExit(f"{sum(sizes):,} ids do not fit into 2^{BITS['linear']} weights: raise BITS")
        self.offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        interactions = ["-q", "cc"] if job.variant == "pairs" else []
        self.options = [
            "--loss_function",
            "logistic",
            "--link",
            "logistic",
            "-b",
            str(BITS[job.variant]),
            *interactions,
        ]
        self.model = self.folder / f"{job.variant}.model"
        self.model.unlink(missing_ok=True)
        self.settings: dict[str, Any] = {
            "options": " ".join(self.options),
            "optimizer": "its default: adaptive, normalised, invariant gradient steps at 0.5",
            "budget": "one pass",
            "threads": "one that reads and one that learns, as always",
        }

    def prepare(self, rows: measure.Rows) -> str:
        path = self.folder / f"{rows.split}-{rows.start}-{rows.stop}.txt"
        line = "%d |c" + " %d" * len(self.fields.categorical) + " |n"
        line += "".join(f" {name}:%.5g" for name in self.fields.numeric) + "\n"
        with path.open("w") as file:
            for start in range(0, len(rows.labels), CHUNK_ROWS):
                part = slice(start, start + CHUNK_ROWS)
                signs = np.where(rows.labels[part] > 0, 1, -1)[:, None]
                columns = np.hstack([signs, rows.ids[part] + self.offsets, rows.numeric[part].astype(np.float64)])
                file.writelines(line % tuple(row) for row in columns.tolist())
        return str(path)

    def fit(self, prepared: str) -> None:
        """Go on from the model file, if there is one; it does not keep the loss function."""
        begin = ["-i", str(self.model)] if self.model.exists() else []
        self._run([*self.options, *begin, "-d", prepared, "-f", str(self.model), "--save_resume"])

    def predict(self, rows: measure.Rows) -> npt.NDArray[np.float64]:
        answers = self.folder / "predictions.txt"
        self._run(["-t", "-i", str(self.model), "-d", self.prepare(rows), "-p", str(answers)])
        return np.loadtxt(answers, dtype=np.float64)

    def _run(self, arguments: list[str]) -> None:
        """Without -c or --cache_file it reads the text itself."""
        Workspace(arg_list=[*arguments, "--quiet"]).finish()


if __name__ == "__main__":
    measure.main(VowpalWabbit)
