"""The decoder (Ramesh et al. 2022, section 2.1): from a CLIP image embedding, and a caption if any, to an image.

A diffusion U-Net (diffusers' UNet2DConditionModel) that predicts v. z_i is projected and added to the timestep
embedding, and becomes four tokens that stand before the text's among those attended to. In training z_i is hidden in a
share of the rows, the text in another.

Shapes: B images, S their side, D dimensions of the embedding, L tokens of the text, W their width.
"""

from __future__ import annotations

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from clickherd.creative import diffusion
from clickherd.creative.clip import Texts
from clickherd.creative.config import DecoderConfig
from clickherd.creative.prior import guided


class Decoder(nn.Module):
    """Images from embeddings, by diffusion; `standardised` and `restored` lead from images in [−1, 1] and back."""

    def __init__(self, config: DecoderConfig, size: int, embedding_dim: int, text_width: int) -> None:
        super().__init__()
        self.size, self.config = size, config
        depth = len(config.channels) - 1
        self.unet = UNet2DConditionModel(
            sample_size=size // config.patch,
            in_channels=3 * config.patch**2,
            out_channels=3 * config.patch**2,
            block_out_channels=config.channels,
            layers_per_block=config.layers,
            down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * depth),
            up_block_types=(*["CrossAttnUpBlock2D"] * depth, "UpBlock2D"),
            attention_head_dim=[max(width // config.head_dim, 1) for width in config.channels],  # the number of heads
            cross_attention_dim=config.context_dim,
            norm_num_groups=8,
            resnet_time_scale_shift="scale_shift",  # adaptive group norm (Dhariwal & Nichol, NeurIPS 2021, section 3.1)
            class_embed_type="projection",
            projection_class_embeddings_input_dim=embedding_dim,
        )
        self.embedding_tokens = nn.Linear(embedding_dim, config.embedding_tokens * config.context_dim)
        self.text_tokens = nn.Linear(text_width, config.context_dim) if config.text else None
        self.no_embedding = nn.Parameter(torch.zeros(embedding_dim))
        self.register_buffer("mean", torch.zeros(embedding_dim))
        self.register_buffer("std", torch.ones(embedding_dim))
        self.register_buffer("pixel_mean", torch.zeros(3, 1, 1))
        self.register_buffer("pixel_std", torch.ones(()))
        self.mean: Tensor
        self.std: Tensor
        self.pixel_mean: Tensor
        self.pixel_std: Tensor

    def standardise(self, image_ND: Tensor, pixels: Tensor) -> None:
        """Take mean and spread of the training images' embeddings, and of the pixels (N, 3, S, S) of some of them."""
        self.mean.copy_(image_ND.mean(0))
        self.std.copy_(image_ND.std(0).clamp_min(1e-6))
        self.pixel_mean.copy_(pixels.mean((0, 2, 3)).reshape(3, 1, 1))
        self.pixel_std.copy_((pixels - self.pixel_mean).square().mean().sqrt().clamp_min(1e-6))

    def standardised(self, images: Tensor) -> Tensor:
        """Images in [−1, 1] as diffusion sees them: with mean 0 and variance 1.

        Noise of variance 1 is made for data of variance 1 (Karras et al., NeurIPS 2022, section 5). Images have about a
        quarter of that, and without this the network would learn too little of what is fine in them (Chen 2023, "On the
        importance of noise scheduling for diffusion models").
        """
        return (images - self.pixel_mean) / self.pixel_std

    def restored(self, x_0: Tensor) -> Tensor:
        """The images in [−1, 1] of what diffusion gives."""
        return (x_0 * self.pixel_std + self.pixel_mean).clamp(-1, 1)

    def forward(
        self, x_t: Tensor, t_B: Tensor, image_BD: Tensor, texts: Texts | None, no_embedding_B: Tensor, no_text_B: Tensor
    ) -> Tensor:
        """Predicted v, (B, 3, S, S). Without `texts`, and where `no_text_B`, no caption is seen."""
        z = torch.where(no_embedding_B[:, None], self.no_embedding, (image_BD - self.mean) / self.std)
        context = self.embedding_tokens(z).unflatten(1, (self.config.embedding_tokens, -1))
        mask = torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)
        if self.text_tokens is not None and texts is not None:
            context = torch.cat([context, self.text_tokens(texts.tokens)], dim=1)
            mask = torch.cat([mask, texts.mask & ~no_text_B[:, None]], dim=1)
        out: Tensor = self.unet(
            pixel_unshuffle(x_t, self.config.patch), t_B, context, class_labels=z, encoder_attention_mask=mask
        ).sample
        return pixel_shuffle(out, self.config.patch)

    def loss(self, images: Tensor, image_BD: Tensor, texts: Texts, rng: torch.Generator) -> Tensor:
        """Mean squared error of v for images in [−1, 1], their embeddings and their captions."""
        device, number, x_0 = rng.device, len(images), self.standardised(images)
        noise = torch.randn(x_0.shape, generator=rng, device=device)
        t_B = diffusion.timesteps(number, rng, self.config.high_noise)
        no_embedding_B = torch.rand(number, generator=rng, device=device) < self.config.drop_embedding
        no_text_B = torch.rand(number, generator=rng, device=device) < self.config.drop_text
        x_t, target = diffusion.noised(x_0, noise, t_B, "v_prediction")
        predicted: Tensor = self(x_t, t_B, image_BD, texts, no_embedding_B, no_text_B)
        return (predicted - target).square().mean()

    def network(self, image_BD: Tensor, texts: Texts | None, guidance: float = 1.0) -> diffusion.Network:
        """v as a function of (x_t, t) alone, for sampling and inversion. Guidance is away from neither z_i nor text."""
        seen = torch.zeros(len(image_BD), dtype=torch.bool, device=image_BD.device)

        def predict(x_t: Tensor, t_B: Tensor) -> Tensor:
            return guided(lambda hidden: self(x_t, t_B, image_BD, texts, hidden, hidden), seen, guidance)

        return predict
