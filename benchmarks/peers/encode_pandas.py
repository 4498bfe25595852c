"""A plain pandas script with the steps of LargeBatchCTR's preprocessing, written from its published description.

The whole log is read into one frame; missing categories become a value of their own and missing numbers 0; every
categorical column is numbered by its sorted values; numbers are logged and scaled to [0, 1]. Nothing of LargeBatchCTR's
code is in it. It saves arrays, where the original goes on in the same process.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import encode
import numpy as np
import pandas as pd
from sklearn.preprocessing import LabelEncoder, MinMaxScaler


def run(log: Path, folder: Path, threads: int) -> dict[str, Any]:
    del threads  # pandas has no use for more than one
    categorical, numeric = list(encode.CATEGORICAL), list(encode.NUMERIC)
    wanted = [encode.LABEL, *numeric, *categorical]
    frame = pd.read_csv(log, sep="\t", usecols=wanted, dtype=dict.fromkeys(categorical, "str"))
    frame[categorical] = frame[categorical].fillna("-1")
    frame[numeric] = frame[numeric].fillna(0)
    values = 0
    ids = np.empty((len(frame), len(categorical)), np.int32)
    for position, name in enumerate(categorical):
        encoder = LabelEncoder()
        ids[:, position] = encoder.fit_transform(frame[name])
        values += len(encoder.classes_)
    numbers = np.log1p(np.maximum(frame[numeric].to_numpy(np.float64), 0))
    scaled = MinMaxScaler().fit_transform(numbers).astype(np.float32)
    folder.mkdir()
    np.save(folder / "ids.npy", ids)
    np.save(folder / "numeric.npy", scaled)
    np.save(folder / "labels.npy", frame[encode.LABEL].to_numpy(np.float32))
    return {"values": values}


if __name__ == "__main__":
    encode.main(run)
