"""Embeddings decoded from short rows, and layers that are products of two."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from clickherd.compact.decoder import Decoder
from clickherd.compact.ranks import full_rank, reduce_layers, reducible
from clickherd.errors import ConfigError
from clickherd.layers import relu_mlp
from clickherd.layers.low_rank import LowRankLinear
from clickherd.layers.mlp import MLP, MLPConfig


def test_an_embedding_by_hand() -> None:
    """e = Bᵀz + μ of fields with one number and none; the third keeps its two."""
    decoder = Decoder([1, 0, None], 2)
    with torch.no_grad():
        decoder.bases_ND.copy_(torch.tensor([[2.0, 3.0]]))
        decoder.mean_RD.copy_(torch.tensor([[10.0, 20.0], [5.0, 6.0]]))
    rows = torch.tensor([[[4.0, 7.0], [7.0, 7.0], [1.0, -1.0]]])  # what is beyond a row's numbers does not count
    assert decoder(rows).tolist() == [[[18.0, 32.0], [5.0, 6.0], [1.0, -1.0]]]
    assert decoder.decode(rows[:, 0], 0).tolist() == [[18.0, 32.0]]
    assert decoder.decode(rows[:, 2], 2).tolist() == [[1.0, -1.0]]
    assert Decoder([1, 2], 5).row_width == 2
    nothing = Decoder([0, 0], 2)
    assert nothing.row_width == 1
    assert nothing(torch.ones(3, 2, 1)).tolist() == [[[0.0, 0.0]] * 2] * 3


def test_bases_of_several_lengths_lie_one_after_the_other() -> None:
    decoder = Decoder([2, 0, 1], 3)
    with torch.no_grad():
        decoder.bases_ND.copy_(torch.arange(9.0).view(3, 3))
    assert decoder.bases().tolist() == [
        [[0, 1, 2], [3, 4, 5]],
        [[0, 0, 0], [0, 0, 0]],
        [[6, 7, 8], [0, 0, 0]],
    ]
    rows = torch.ones(1, 3, 2)
    with torch.autocast("cpu", torch.bfloat16):  # products in bf16, rows as they came: the model's other inputs are so
        assert decoder(rows).dtype == decoder.decode(rows[:, 0], 0).dtype == torch.float32


def test_layers_in_one_go_are_the_layers_one_by_one() -> None:
    torch.manual_seed(0)
    mlp = MLP(12, MLPConfig(hidden_units=(16, 16)), num_outputs=1)
    holder = nn.ModuleDict({"mlp": mlp})
    reduce_layers(holder, {"mlp.layers.2": 3})
    assert isinstance(mlp.layers[2], LowRankLinear)
    assert set(reducible(holder)) == {"mlp.layers.0"}
    x = torch.randn(7, 12)
    gradients = []
    for one_by_one in (False, True):
        own = x.clone().requires_grad_()
        if one_by_one:
            with relu_mlp.layer_by_layer():
                out = mlp(own)
        else:
            out = mlp(own)
        gradients.append([out.detach(), *torch.autograd.grad(out.sum(), [own, *mlp.parameters()])])
    for fused, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(fused, plain)


def test_ranks_that_do_not_fit_are_told() -> None:
    holder = nn.ModuleDict({"mlp": MLP(12, MLPConfig(hidden_units=(16,)), num_outputs=1)})
    assert full_rank(nn.Linear(12, 16)) == 7  # 7 · (12 + 16) = 196 > 192
    with pytest.raises(ConfigError, match=r"compression.ranks.mlp.layers.0 = 7: no smaller than the layer"):
        reduce_layers(holder, {"mlp.layers.0": 7})
    with pytest.raises(ConfigError, match=r"names no layer 'mlp.layers.1'"):
        reduce_layers(holder, {"mlp.layers.1": 2})
