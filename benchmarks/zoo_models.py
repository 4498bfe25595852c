"""Networks and settings in FuxiCTR's words and in clickherd's: for Frappe_x1 those that BARS publishes.

For MovieLens-1M nobody did: the networks are small, and λ is chosen of `l2` on the validation rows, by either trainer
for itself. FuxiCTR adds (λ/2)‖W‖² over the embedding tables to the mean loss, clickherd λ‖W‖²: half of its λ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MLP = [400, 400, 400]
SMALL = [128, 128]


@dataclass(frozen=True)
class Entry:
    """One model: its settings on both sides, and what BARS published for it (test AUC / log loss)."""

    name: str
    title: str
    peer: str
    l2: tuple[float, ...]  # λ as FuxiCTR takes it; where there are several, the validation rows choose
    peer_model: dict[str, Any]
    model: dict[str, Any]
    published: str = ""

    def peer_settings(self, l2: float) -> dict[str, Any]:
        """For the constructor of FuxiCTR's class."""
        common = {
            "embedding_dim": 10,
            "embedding_regularizer": l2,
            "net_regularizer": 0,
            "learning_rate": 1e-3,
            "batch_size": 4096,
            "epochs": 100,
        }
        return common | self.peer_model

    def settings(self, l2: float, seed: int, threads: int | None) -> dict[str, Any]:
        """The same for `clickherd.config.resolve`, without where the rows are."""
        optim = {
            "rule": "none",
            "base_batch_size": 4096,
            "learning_rate": 1e-3,
            "embedding_learning_rate": 1e-3,
            "l2": l2 / 2,
            "init_std": 1e-4,
            "warmup_epochs": 0,
            "plateau_factor": 0.1,
            "averaging": 4.0,
            "initial_bias": "zero",
        }
        train = {
            "batch_size": 4096,
            "epochs": 100,
            "patience": 2,
            "precision": "fp32",
            "seed": seed,
            "threads": threads,
        }
        return {"model": {"name": self.name, "embedding_dim": 10, **self.model}, "optim": optim, "train": train}

    def defaults(self, seed: int, threads: int | None) -> dict[str, Any]:
        """The same network with clickherd's own settings of everything else."""
        return {"model": {"name": self.name, **self.model}, "train": {"seed": seed, "threads": threads}}


def mlp(dropout: float, units: list[int] = MLP) -> dict[str, Any]:
    return {"mlp": {"hidden_units": units, "batch_norm": True, "dropout": dropout}}


FRAPPE = (
    Entry(
        "deepfm", "DeepFM", "DeepFM", (0.05,),
        {"hidden_units": MLP, "hidden_activations": "relu", "batch_norm": True, "net_dropout": 0.2},
        mlp(0.2), ".9842 / .1482",
    ),
    Entry(
        "dcnv2", "DCN-v2", "DCNv2", (0.05,),
        {
            "model_structure": "parallel", "use_low_rank_mixture": False, "num_cross_layers": 4,
            "parallel_dnn_hidden_units": MLP, "dnn_activations": "relu", "batch_norm": True, "net_dropout": 0.4,
        },
        {"num_cross_layers": 4, "cross_l2": 0.0, **mlp(0.4)}, ".9845 / .1491",
    ),
    Entry(
        "autoint", "AutoInt+", "AutoInt", (0.1,),
        {
            "attention_layers": 5, "attention_dim": 128, "num_heads": 4, "use_residual": True, "layer_norm": True,
            "use_scale": True, "use_wide": False, "dnn_hidden_units": MLP, "dnn_activations": "relu",
            "batch_norm": True, "net_dropout": 0.1,
        },
        {"form": "fuxictr", "num_attention_layers": 5, "attention_dim": 128, "num_heads": 4, **mlp(0.1)},
        ".9848 / .1490",
    ),
    Entry(
        "finalmlp", "FinalMLP", "FinalMLP", (0.05,),
        {
            "mlp1_hidden_units": [400], "mlp1_hidden_activations": "relu", "mlp1_dropout": 0.4,
            "mlp1_batch_norm": True, "mlp2_hidden_units": [100], "mlp2_hidden_activations": "relu",
            "mlp2_dropout": 0.4, "mlp2_batch_norm": True, "use_fs": True, "fs_hidden_units": [400],
            "fs1_context": ["user"], "fs2_context": ["item"], "num_heads": 5,
        },
        {
            "mlp": {"hidden_units": [400], "batch_norm": True, "dropout": 0.4},
            "mlp2": {"hidden_units": [100], "batch_norm": True, "dropout": 0.4},
            "context": ["user"], "context2": ["item"], "num_heads": 5, "gate_units": [400],
        },
        ".9861 / .1484",
    ),
    Entry(
        "finalnet", "FinalNet", "FinalNet", (0.1,),
        {
            "block_type": "2B", "batch_norm": True, "use_feature_gating": True, "residual_type": "concat",
            "block1_hidden_units": [400, 400], "block1_hidden_activations": "relu", "block1_dropout": 0.1,
            "block2_hidden_units": [400], "block2_hidden_activations": "relu", "block2_dropout": 0.1,
        },
        {
            "block": {"hidden_units": [400, 400], "batch_norm": True, "dropout": 0.1},
            "block2": {"hidden_units": [400], "batch_norm": True, "dropout": 0.1},
        },
        ".9857 / .1311",
    ),
)  # fmt: skip
TRIED = (0.0, 0.001, 0.01)
MOVIELENS = (
    Entry(
        "deepfm", "DeepFM", "DeepFM", TRIED,
        {"hidden_units": SMALL, "hidden_activations": "relu", "batch_norm": True, "net_dropout": 0.2},
        mlp(0.2, SMALL),
    ),
    Entry(
        "dcnv2", "DCN-v2", "DCNv2", TRIED,
        {
            "model_structure": "parallel", "use_low_rank_mixture": False, "num_cross_layers": 3,
            "parallel_dnn_hidden_units": SMALL, "dnn_activations": "relu", "batch_norm": True, "net_dropout": 0.2,
        },
        {"num_cross_layers": 3, "cross_l2": 0.0, **mlp(0.2, SMALL)},
    ),
    Entry(
        "finalmlp", "FinalMLP", "FinalMLP", TRIED,
        {
            "mlp1_hidden_units": [128], "mlp1_hidden_activations": "relu", "mlp1_dropout": 0.2,
            "mlp1_batch_norm": True, "mlp2_hidden_units": [64], "mlp2_hidden_activations": "relu",
            "mlp2_dropout": 0.2, "mlp2_batch_norm": True, "use_fs": True, "fs_hidden_units": [128],
            "fs1_context": ["user_id"], "fs2_context": ["movie_id"], "num_heads": 4,
        },
        {
            "mlp": {"hidden_units": [128], "batch_norm": True, "dropout": 0.2},
            "mlp2": {"hidden_units": [64], "batch_norm": True, "dropout": 0.2},
            "context": ["user_id"], "context2": ["movie_id"], "num_heads": 4, "gate_units": [128],
        },
    ),
)  # fmt: skip
ENTRIES = {
    name: {entry.name: entry for entry in entries}
    for name, entries in (("frappe_x1", FRAPPE), ("movielens_1m", MOVIELENS))
}
