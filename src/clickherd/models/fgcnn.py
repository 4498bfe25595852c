"""FGCNN: a convolutional network makes new features, and an IPNN reads them with the old ones.

Liu et al., WWW 2019, https://arxiv.org/abs/1904.04447.

    C^i = maxpool(tanh(conv(C^{i−1}))),  C^0 = the generator's embeddings            (sections 3.3.1, 3.3.2)
    R^i = tanh(W_i C^i + b_i), all of C^i in one vector                              (section 3.3.3)
    E = [v_1, …, v_F, R^1, …, R^n]                                                   (section 3.3.4)
    ŷ = σ(MLP([E, ⟨e_f, e_g⟩ for f < g]))                                            (section 3.4)

The kernel is `kernel_height` fields high and one column wide, pooling halves the number of fields
(the first of an odd number stays alone), and R^i holds
`new_channels` embeddings for each field that is left. The generator's embeddings are its own: a row of the table holds
an id's two embeddings, first that of the classifier. CowClip clips the gradient of the whole row.
Real-valued columns enter the MLP only.

Shapes: B rows, F fields, D embedding width, K real-valued columns, C channels, R new channels, T old and new features.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from clickherd.layers.interaction import InnerProducts
from clickherd.layers.mlp import MLP, MLPConfig, glorot_linear
from clickherd.models.base import CTRModel, ModelConfig


class Config(ModelConfig):
    """Settings of FGCNN."""

    wide: ClassVar[bool] = False
    name: Literal["fgcnn"] = "fgcnn"
    channels: tuple[PositiveInt, ...] = Field((14, 16, 18, 20), min_length=1, description="of each convolution")
    kernel_height: int = Field(7, ge=1, description="fields under the kernel")
    new_channels: int = Field(2, ge=1, description="new embeddings for each field that pooling leaves")
    conv_batch_norm: bool = Field(False, description="before the tanh, with the statistics of the micro-batch")
    mlp: MLPConfig = MLPConfig()

    @property
    def row_width(self) -> int:
        """Two embeddings."""
        return 2 * self.embedding_dim

    def build(self, num_fields: int, num_numeric: int) -> FGCNN:
        """The network."""
        return FGCNN(self, num_fields, num_numeric)


class Generation(nn.Module):
    """One layer of the generator: convolution, pooling, recombination."""

    def __init__(self, height: int, num_inputs: int, num_outputs: int, config: Config) -> None:
        super().__init__()
        self.conv = nn.Conv2d(num_inputs, num_outputs, (config.kernel_height, 1), padding="same")
        nn.init.xavier_normal_(self.conv.weight)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)
        self.norm = nn.BatchNorm2d(num_outputs) if config.conv_batch_norm else nn.Identity()
        self.alone = height % 2
        self.height, dim = -(-height // 2), config.embedding_dim
        self.shape = (self.height * config.new_channels, dim)
        self.recombine = glorot_linear(num_outputs * self.height * dim, self.shape[0] * dim)

    def forward(self, x_BCFD: Tensor) -> tuple[Tensor, Tensor]:
        """What the next layer reads, half as many fields high, and the new features."""
        y_BCFD: Tensor = self.norm(self.conv(x_BCFD))
        pooled_BCFD = torch.maximum(y_BCFD[:, :, self.alone :: 2], y_BCFD[:, :, self.alone + 1 :: 2])
        if self.alone:
            pooled_BCFD = torch.cat([y_BCFD[:, :, :1], pooled_BCFD], dim=2)
        pooled_BCFD = pooled_BCFD.tanh()  # of the maximum, which is the maximum of twice as many tanh
        return pooled_BCFD, self.recombine(pooled_BCFD.flatten(1)).tanh().unflatten(1, self.shape)


class FGCNN(CTRModel):
    """A generator of features, and an IPNN as classifier."""

    def __init__(self, config: Config, num_fields: int, num_numeric: int) -> None:
        super().__init__()
        self.dim, height, num_features = config.embedding_dim, num_fields, num_fields
        layers = []
        for num_inputs, num_outputs in zip((1, *config.channels), config.channels if num_fields else (), strict=False):
            layers.append(Generation(height, num_inputs, num_outputs, config))
            height = layers[-1].height
            num_features += layers[-1].shape[0]
        self.generator = nn.ModuleList(layers)
        self.products = InnerProducts(num_features)
        self.mlp = MLP(num_features * self.dim + self.products.num_pairs + num_numeric, config.mlp, num_outputs=1)

    def forward(self, rows_BFD: Tensor, wide_B: Tensor, numeric_BK: Tensor) -> Tensor:
        """Logits, shape (B,); the rows are 2·D wide."""
        features = [rows_BFD[..., : self.dim]]
        x_BCFD = rows_BFD[:, None, :, self.dim :]
        for layer in self.generator:
            x_BCFD, new = layer(x_BCFD)
            features.append(new)
        all_BTD = torch.cat(features, dim=1)
        logits_B1: Tensor = self.mlp(torch.cat([all_BTD.flatten(1), self.products(all_BTD), numeric_BK], dim=1))
        return logits_B1.squeeze(1)
