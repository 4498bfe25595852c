"""The settings that BARS publishes for Frappe_x1, in FuxiCTR's words and in clickherd's.

FuxiCTR adds (λ/2)‖W‖² over the embedding tables to the mean loss, clickherd λ‖W‖²: half of its λ.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MLP = [400, 400, 400]


@dataclass(frozen=True)
class Entry:
    """One model: its settings on both sides, and what BARS published for it (test AUC / log loss)."""

    name: str
    title: str
    peer: str
    peer_l2: float
    peer_model: dict[str, Any]
    model: dict[str, Any]
    published: str
    optim: dict[str, Any] = field(default_factory=dict)

    @property
    def peer_settings(self) -> dict[str, Any]:
        common = {
            "embedding_dim": 10,
            "embedding_regularizer": self.peer_l2,
            "net_regularizer": 0,
            "learning_rate": 1e-3,
            "batch_size": 4096,
            "epochs": 100,
        }
        return common | self.peer_model

    def settings(self, seed: int, threads: int | None) -> dict[str, Any]:
        """For `clickherd.config.resolve`, without where the rows are."""
        optim = {
            "rule": "none",
            "base_batch_size": 4096,
            "learning_rate": 1e-3,
            "embedding_learning_rate": 1e-3,
            "l2": self.peer_l2 / 2,
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
        return {
            "model": {"name": self.name, "embedding_dim": 10, **self.model},
            "optim": optim | self.optim,
            "train": train,
        }


def mlp(dropout: float) -> dict[str, Any]:
    return {"mlp": {"hidden_units": MLP, "batch_norm": True, "dropout": dropout}}


ENTRIES = {
    entry.name: entry
    for entry in (
        Entry(
            "deepfm", "DeepFM", "DeepFM", 0.05,
            {"hidden_units": MLP, "hidden_activations": "relu", "batch_norm": True, "net_dropout": 0.2},
            mlp(0.2), ".9842 / .1482",
        ),
        Entry(
            "dcnv2", "DCN-v2", "DCNv2", 0.05,
            {
                "model_structure": "parallel", "use_low_rank_mixture": False, "num_cross_layers": 4,
                "parallel_dnn_hidden_units": MLP, "dnn_activations": "relu", "batch_norm": True, "net_dropout": 0.4,
            },
            {"num_cross_layers": 4, "cross_l2": 0.0, **mlp(0.4)}, ".9845 / .1491",
        ),
        Entry(
            "autoint", "AutoInt+", "AutoInt", 0.1,
            {
                "attention_layers": 5, "attention_dim": 128, "num_heads": 4, "use_residual": True, "layer_norm": True,
                "use_scale": True, "use_wide": False, "dnn_hidden_units": MLP, "dnn_activations": "relu",
                "batch_norm": True, "net_dropout": 0.1,
            },
            {"form": "fuxictr", "num_attention_layers": 5, "attention_dim": 128, "num_heads": 4, **mlp(0.1)},
            ".9848 / .1490",
        ),
        Entry(
            "finalmlp", "FinalMLP", "FinalMLP", 0.05,
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
            "finalnet", "FinalNet", "FinalNet", 0.1,
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
    )
}  # fmt: skip
