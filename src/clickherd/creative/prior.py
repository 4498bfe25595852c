"""The diffusion prior (Ramesh et al. 2022, section 2.2): from a caption to a CLIP image embedding.

A causal transformer reads [tokens of the text, z_t, timestep, noised z_i, query] and predicts z_i at the query:

    L = E ‖f(z_i^(t), t, y) − z_i‖² / D

z_i is standardised for it (the paper scales by 17.2 to the same end). In a share of the rows the text is hidden; at
sampling ẑ = ẑ_∅ + g (ẑ_y − ẑ_∅) (Ho & Salimans 2021), and of two samples the one nearer to the text is kept
(`latent.pick`). The transformer is diffusers' PriorTransformer.

Shapes: B captions, L tokens, W their width, D dimensions of the embedding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers.models.transformers.prior_transformer import PriorTransformer
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

from clickherd.creative import diffusion
from clickherd.creative.clip import Texts
from clickherd.creative.config import PriorConfig


class DiffusionPrior(nn.Module):
    """z_i from the text, by diffusion in CLIP's space."""

    def __init__(self, config: PriorConfig, embedding_dim: int, text_width: int, context_length: int) -> None:
        super().__init__()
        self.drop_text, self.context_length = config.drop_text, context_length
        self.tokens = nn.Linear(text_width, embedding_dim)
        self.transformer = PriorTransformer(
            num_attention_heads=config.heads,
            attention_head_dim=config.width // config.heads,
            num_layers=config.layers,
            embedding_dim=embedding_dim,
            num_embeddings=context_length,
            additional_embeddings=4,
        )
        self.no_text = nn.Parameter(torch.zeros(embedding_dim))  # in place of z_t
        self.register_buffer("mean", torch.zeros(embedding_dim))
        self.register_buffer("std", torch.ones(embedding_dim))
        self.mean: Tensor
        self.std: Tensor
        self.transformer.clip_mean.requires_grad_(False)  # ours are above
        self.transformer.clip_std.requires_grad_(False)

    def standardise(self, image_ND: Tensor) -> None:
        """Take mean and spread of the training images' embeddings."""
        self.mean.copy_(image_ND.mean(0))
        self.std.copy_(image_ND.std(0).clamp_min(1e-6))

    def forward(self, noised_BD: Tensor, t_B: Tensor, texts: Texts, hidden_B: Tensor) -> Tensor:
        """Predicted standardised z_i (B, D). `hidden_B` says for which rows the text is not to be seen."""
        missing = self.context_length - texts.tokens.shape[1]
        tokens = pad(texts.tokens, (0, 0, 0, missing))
        mask = pad(texts.mask & ~hidden_B[:, None], (0, missing))
        embedding = torch.where(hidden_B[:, None], self.no_text, texts.embedding * len(self.mean) ** 0.5)
        predicted: Tensor = self.transformer(
            noised_BD, t_B, embedding, self.tokens(tokens), mask
        ).predicted_image_embedding
        return predicted

    def loss(self, image_BD: Tensor, texts: Texts, rng: torch.Generator) -> Tensor:
        """The mean squared error above for unit embeddings of images and their captions."""
        x_0 = (image_BD - self.mean) / self.std
        noise = torch.randn(x_0.shape, generator=rng, device=rng.device)
        t_B = diffusion.timesteps(len(x_0), rng)
        hidden_B = torch.rand(len(x_0), generator=rng, device=rng.device) < self.drop_text
        x_t, target = diffusion.noised(x_0, noise, t_B, "sample")
        loss: Tensor = (self(x_t, t_B, texts, hidden_B) - target).square().mean()
        return loss

    @torch.no_grad()
    def sample(self, texts: Texts, noise_BD: Tensor, *, steps: int, guidance: float) -> Tensor:
        """Unit image embeddings (B, D) for the captions. `guidance` 1 is none; 0 ignores the text."""
        seen = torch.zeros(len(texts), dtype=torch.bool, device=noise_BD.device)

        def network(x_t: Tensor, t_B: Tensor) -> Tensor:
            return guided(lambda hidden: self(x_t, t_B, texts, hidden), seen, guidance)

        x_0 = diffusion.sample(network, noise_BD, target="sample", steps=steps)
        return normalize(x_0 * self.std + self.mean, dim=-1)


def guided(predict: Callable[[Tensor], Tensor], seen: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance: out_∅ + g (out_y − out_∅); the network is asked once where g is 0 or 1."""
    if guidance == 1:
        return predict(seen)
    without = predict(~seen)
    return without if guidance == 0 else without + guidance * (predict(seen) - without)
