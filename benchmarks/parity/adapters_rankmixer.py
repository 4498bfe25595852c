"""RankMixer, which FuxiCTR has not: beside a re-implementation of it. `adapters` says what an adapter is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from clickherd.models import CTRModel
from parity.registry import EMBEDDING_DIM, FIELDS, State, Weights, case

TOKENS, WIDTH, LAYERS, EXPANSION = 6, 12, 3, 2
PIECE = -(-len(FIELDS) * EMBEDDING_DIM // TOKENS)  # of the row's embeddings, padded with zeros to a multiple of it


class Peer(nn.Module):
    """The re-implementation, called as FuxiCTR's models are."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Logits, shape (B, 1)."""
        return {"y_pred": self.net(list(batch.values()))[0]}


def build(module: Any) -> nn.Module:
    """Without its norm of the tokens' mean, which the paper has not."""
    net = module.RankMixer(
        list(FIELDS.values()),
        [EMBEDDING_DIM] * len(FIELDS),
        chunk_size=PIECE,
        hidden_dim=WIDTH,
        num_layers=LAYERS,
        ffn_expansion=EXPANSION,
    )
    net.output[0] = nn.Identity()
    return Peer(net)


@torch.no_grad()
def share_projection(net: CTRModel) -> None:
    """Its tokens share one linear layer: ours get the first token's."""
    for weight in (net.tokens.weight, net.tokens.bias):
        weight.copy_(weight[:1].clone().expand_as(weight))


@case(
    "rankmixer",
    "../../rankmixer/models/rankmixer.py",  # beside FuxiCTR's repository
    {},
    {"num_tokens": TOKENS, "token_dim": WIDTH, "num_layers": LAYERS, "expansion": EXPANSION},
    remark="lswhim's code: its tokens share a first layer, so ours are given one; its norm before the head is left out",
    peer="RankMixer",
    build=build,
    prepare=share_projection,
)
def rankmixer(w: Weights) -> State:
    fields = w.embedding("").values()
    state = {f"net.tokenizer.embeddings.{i}.weight": rows for i, rows in enumerate(fields)}
    state |= {
        "net.tokenizer.proj.weight": w["tokens.weight"][0].T,
        "net.tokenizer.proj.bias": w["tokens.bias"][0, 0],
    }
    for i in range(LAYERS):
        for ours, theirs in ((0, 1), (2, 2)):
            state[f"net.blocks.{i}.pffn.W{theirs}"] = w[f"blocks.{i}.mlp.{ours}.weight"]
            state[f"net.blocks.{i}.pffn.b{theirs}"] = w[f"blocks.{i}.mlp.{ours}.bias"].squeeze(1)
        state |= w.under(f"blocks.{i}.norm", f"net.blocks.{i}.norm1")
        state |= w.under(f"blocks.{i}.norm2", f"net.blocks.{i}.norm2")
    return state | w.under("head", "net.output.1")
