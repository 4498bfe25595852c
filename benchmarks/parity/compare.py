"""Runs the cases and prints what it finds as one JSON line; `fuxictr.py` starts it.

Shapes: B rows, F fields.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from fuxictr.features import FeatureMap
from torch import Tensor, nn

from clickherd.layers.embedding import EmbeddingTable
from clickherd.layers.sequences import SequenceRows
from clickherd.models import CTRModel
from parity import (  # noqa: F401  (they register)
    adapters,
    adapters_final,
    adapters_interaction,
    adapters_rankmixer,
    adapters_sequence,
)
from parity.registry import CASES, FIELDS, HISTORY, LENGTH, TARGET, Case, Weights

ROWS = 256


def main() -> None:
    """Compare the cases of the models named on the command line, or all."""
    checkout, *names = sys.argv[1:]
    unknown = set(names) - {case.model for case in CASES}
    if unknown:
        sys.exit(f"no case for {', '.join(sorted(unknown))}; there are {', '.join(sorted({c.model for c in CASES}))}")
    cases = [case for case in CASES if not names or case.model in names]
    print(json.dumps([compare(case, Path(checkout)) for case in cases]))


@torch.no_grad()
def compare(case: Case, checkout: Path) -> dict[str, Any]:
    """The largest difference of a logit, and how many weights of ours went into it."""
    torch.manual_seed(0)
    net, table = ours(case)
    case.prepare(net)
    weights = Weights(net.state_dict(), table.weight, case.config)
    peer = theirs(case, checkout, weights)
    ids_BF = torch.stack([torch.randint(size, (ROWS,), dtype=torch.int32) for size in FIELDS.values()], dim=1)
    offsets_F = torch.tensor([0, *FIELDS.values()][:-1], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    rows_BFD, wide_B = table.gather(ids_BF + offsets_F)
    batch = {field: ids_BF[:, j] for j, field in enumerate(FIELDS)}
    inputs = [rows_BFD.double(), wide_B.double(), torch.empty(ROWS, 0, dtype=torch.float64)]
    if case.sequence:
        batch[HISTORY], sequence = history(table, int(offsets_F[list(FIELDS).index(TARGET)]))
        logits_B = net(*inputs, (sequence,))
    else:
        logits_B = net(*inputs)
    difference = float((logits_B - peer(batch)["y_pred"].squeeze(1)).abs().max())
    return {
        "model": case.model,
        "settings": case.told,
        "peer": case.peer,
        "difference": difference,
        "spread": float(logits_B.std()),
        "weights": weights.count,
        "remark": case.remark,
    }


def history(table: EmbeddingTable, offset: int) -> tuple[Tensor, SequenceRows]:
    """Histories of 1 to `LENGTH` ids: padded with 0, which is no id of them, as theirs are; and as ours are."""
    ids_BL = torch.randint(1, FIELDS[TARGET], (ROWS, LENGTH), dtype=torch.int32)
    lengths_B = torch.randint(1, LENGTH + 1, (ROWS,))
    real_BL = torch.arange(LENGTH) < lengths_B[:, None]
    rows_N1D, _ = table.gather(ids_BL[real_BL][:, None] + offset)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths_B.cumsum(0)])
    sequence = SequenceRows(rows_N1D.squeeze(1).double(), offsets, list(FIELDS).index(TARGET))
    return ids_BL * real_BL, sequence


def ours(case: Case) -> tuple[CTRModel, EmbeddingTable]:
    """The network in float64 and the table, every weight at random."""
    config = case.config
    net = config.build(len(FIELDS), 0, **({"num_sequences": 1} if case.sequence else {})).double().eval()
    for weight in net.parameters():
        weight.add_(0.1 * torch.randn_like(weight))
    for name, buffer in net.named_buffers():  # the running averages of batch norm
        if buffer.is_floating_point():
            buffer.copy_(torch.rand_like(buffer) + (0.5 if name.endswith("var") else -0.5))
    table = EmbeddingTable(sum(FIELDS.values()), config.row_width, wide=config.wide, init_std=0.5)
    table.weight.normal_(0, 0.5).mul_(1024).round_().div_(1024)  # linear weights add up without rounding
    return net, table


def theirs(case: Case, checkout: Path, weights: Weights) -> nn.Module:
    """The peer's network with those weights; it returns logits, as for a regression."""
    path = checkout / "model_zoo" / case.source
    spec = importlib.util.spec_from_file_location(f"fuxictr_zoo_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    peer = (case.build or functools.partial(of_fuxictr, case))(module).double().eval()
    state = {name: value for name, value in peer.state_dict().items() if not value.is_floating_point()}
    peer.load_state_dict(state | case.adapter(weights))
    assert not weights.unused, f"{case.model}: {weights.unused} went nowhere"
    return peer


def of_fuxictr(case: Case, module: Any) -> nn.Module:
    """An instance of a class that FuxiCTR's model zoo defines."""
    with tempfile.TemporaryDirectory() as folder:
        peer: nn.Module = getattr(module, case.peer)(
            feature_map(folder, case),
            embedding_dim=case.config.embedding_dim,
            task="regression",
            optimizer="adam",
            loss="binary_crossentropy",
            metrics=["AUC"],
            model_root=folder,
            verbose=0,
            gpu=-1,
            **case.options,
        )
    return peer


def feature_map(folder: str, case: Case) -> FeatureMap:
    """The description of the columns that FuxiCTR's preprocessing would have written."""
    described = FeatureMap("parity", folder)
    for name, size in FIELDS.items():
        described.features[name] = {"source": "", "type": "categorical", "vocab_size": size}
    if case.sequence:
        of_history = {"source": "", "type": "sequence", "vocab_size": FIELDS[TARGET], "max_len": LENGTH}
        described.features[HISTORY] = {**of_history, "share_embedding": TARGET}
    described.labels = ["label"]
    described.num_fields = described.get_num_fields()
    described.total_features = sum(FIELDS.values())
    described.default_emb_dim = case.config.embedding_dim
    described.set_column_index()
    return described


if __name__ == "__main__":
    main()
