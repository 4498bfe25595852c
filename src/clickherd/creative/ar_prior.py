"""The autoregressive prior (Ramesh et al. 2022, section 2.2): the image embedding as a sequence of codes.

z_i is projected to its principal components, ordered by decreasing eigenvalue, each quantised to equal buckets; a
causal transformer predicts one code after the other. Its prefix holds the text's tokens, z_t, and a token for the dot
product z_i · z_t, quantised; at sampling that token is drawn from the top half of its distribution. The transformer is
GPT-2's, of transformers.

Codes are places on a line, not names: bucket b of n is read and predicted as the cosines cos(π f (b + ½) / n) of the
first 32 frequencies f. With a vector of its own for each bucket the prior is slow to learn from captions (docs/log.md).

Shapes: B captions, L tokens, W their width, D dimensions of the embedding, K components.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize, pad
from transformers import DynamicCache, GPT2Config, GPT2Model

from clickherd.creative.clip import Texts
from clickherd.creative.config import ARPriorConfig
from clickherd.creative.latent import PCA, Buckets

DOT_BUCKETS = 64
WAVES = 32


class ARPrior(nn.Module):
    """z_i from the text, one quantised principal component after the other."""

    def __init__(
        self, config: ARPriorConfig, components: int, embedding_dim: int, text_width: int, context_length: int
    ) -> None:
        super().__init__()
        self.drop_text, self.number, self.context_length = config.drop_text, config.buckets, context_length
        self.tokens = nn.Linear(text_width, config.width)
        self.text = nn.Linear(embedding_dim, config.width)
        self.no_text = nn.Parameter(torch.zeros(config.width))
        self.dot = nn.Embedding(DOT_BUCKETS, config.width)
        waves = min(WAVES, config.buckets)
        self.codes = nn.Linear(waves, config.width)
        self.transformer = GPT2Model(
            GPT2Config(
                vocab_size=1,  # it is fed vectors
                n_positions=context_length + 2 + components,
                n_embd=config.width,
                n_layer=config.layers,
                n_head=config.heads,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                initializer_range=config.width**-0.5,  # the 0.02 of GPT-2 is that of wide networks
                bos_token_id=0,
                eos_token_id=0,
            )
        )
        self.transformer.wte.requires_grad_(False)
        self.head = nn.Linear(config.width, waves)
        nn.init.normal_(self.head.weight, std=0.02)  # all codes are about as likely at first
        nn.init.zeros_(self.head.bias)
        place = (torch.arange(config.buckets) + 0.5) / config.buckets
        self.register_buffer("waves", torch.cos(torch.pi * place[:, None] * torch.arange(waves)))
        for name, shape in (
            ("mean", (embedding_dim,)),
            ("components", (components, embedding_dim)),
            ("variance", (components,)),
            ("low", (components,)),
            ("high", (components,)),
            ("dot_edges", (DOT_BUCKETS - 1,)),
        ):
            self.register_buffer(name, torch.zeros(shape))

    def standardise(self, image_ND: Tensor, text_ND: Tensor) -> None:
        """Take components, the buckets' ranges and the quantiles of z_i · z_t from the training set."""
        number = self.num_components
        found = PCA.fit(image_ND)
        buckets = Buckets.fit(found.project(image_ND, number), self.number)
        dots = (image_ND * text_ND).sum(-1)
        edges = torch.quantile(dots, torch.arange(1, DOT_BUCKETS, device=dots.device) / DOT_BUCKETS)
        taken = {
            "mean": found.mean,
            "components": found.components[:number],
            "variance": found.variance[:number],
            "low": buckets.low,
            "high": buckets.high,
            "dot_edges": edges,
        }
        for name, values in taken.items():
            self.get_buffer(name).copy_(values)

    @property
    def num_components(self) -> int:
        """K."""
        return len(self.get_buffer("components"))

    @property
    def pca(self) -> PCA:
        """The components that are kept."""
        return PCA(self.get_buffer("mean"), self.get_buffer("components"), self.get_buffer("variance"))

    @property
    def buckets(self) -> Buckets:
        """How they are quantised."""
        return Buckets(self.get_buffer("low"), self.get_buffer("high"), self.number)

    def quantise(self, image_ND: Tensor) -> Tensor:
        """The codes of embeddings, int64 (N, K); in fp32 always, buckets are narrower than bf16's steps."""
        with torch.autocast(image_ND.device.type, enabled=False):
            return self.buckets.codes(self.pca.project(image_ND.float(), self.num_components))

    def restore(self, codes_NK: Tensor) -> Tensor:
        """Unit embeddings (N, D) of codes."""
        return normalize(self.pca.restore(self.buckets.middles(codes_NK)), dim=-1)

    def prefix(self, texts: Texts, dot_B: Tensor, hidden_B: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors (B, context + 2, width) that the codes follow on, and which of them may be seen (B, context + 2).

        Texts are padded to the whole context, so that z_t, the dot product and each code always stand at one position.
        """
        missing = self.context_length - texts.tokens.shape[1]
        hidden = hidden_B[:, None]
        tokens = self.tokens(pad(texts.tokens, (0, 0, 0, missing)))
        z_t = torch.where(hidden, self.no_text, self.text(texts.embedding * texts.embedding.shape[1] ** 0.5))
        vectors = torch.cat([tokens, z_t[:, None], self.dot(dot_B)[:, None]], dim=1)
        return vectors, pad(pad(texts.mask & ~hidden, (0, missing)), (0, 2), value=True)

    def forward(self, texts: Texts, dot_B: Tensor, codes_BK: Tensor, hidden_B: Tensor) -> Tensor:
        """Logits (B, K, buckets) of each code, given the text and the codes before it."""
        vectors, mask = self.prefix(texts, dot_B, hidden_B)
        vectors = torch.cat([vectors, self.codes(self.get_buffer("waves")[codes_BK[:, :-1]])], dim=1)
        mask = torch.cat([mask, mask.new_ones(len(mask), codes_BK.shape[1] - 1)], dim=1)
        out = self.transformer(inputs_embeds=vectors, attention_mask=mask.long(), use_cache=False)
        logits: Tensor = self.head(out.last_hidden_state[:, -codes_BK.shape[1] :]) @ self.get_buffer("waves").T
        return logits

    def loss(self, image_BD: Tensor, texts: Texts, rng: torch.Generator) -> Tensor:
        """Mean cross-entropy of the codes, in nats."""
        hidden_B = torch.rand(len(image_BD), generator=rng, device=rng.device) < self.drop_text
        dot_B = torch.bucketize((image_BD * texts.embedding).sum(-1), self.get_buffer("dot_edges"))
        codes_BK = self.quantise(image_BD)
        return cross_entropy(self(texts, dot_B, codes_BK, hidden_B).flatten(0, 1), codes_BK.flatten())

    @torch.no_grad()
    def sample(self, texts: Texts, uniform_BK: Tensor, *, guidance: float) -> Tensor:
        """Unit image embeddings (B, D) for the captions.

        Args:
            texts: the captions.
            uniform_BK: random numbers in [0, 1): the first of each row chooses the dot product's token, the others the
                codes. (B, 1 + K)
            guidance: 1 is none; 0 ignores the text.
        """
        seen = torch.zeros(len(texts), dtype=torch.bool, device=uniform_BK.device)
        top_half = DOT_BUCKETS // 2 + (uniform_BK[:, 0] * (DOT_BUCKETS // 2)).long()
        hidings = [seen] if guidance == 1 else [~seen] if guidance == 0 else [seen, ~seen]
        streams = [(*self.prefix(texts, top_half, hidden), DynamicCache()) for hidden in hidings]
        codes: list[Tensor] = []
        for k in range(1, uniform_BK.shape[1]):
            logits = []
            for vectors, mask, cache in streams:
                out = self.transformer(inputs_embeds=vectors, attention_mask=mask.long(), cache=cache, use_cache=True)
                logits.append(self.head(out.last_hidden_state[:, -1]) @ self.get_buffer("waves").T)
            mixed = logits[0] if len(logits) == 1 else logits[1] + guidance * (logits[0] - logits[1])
            cumulated = mixed.softmax(-1).cumsum(-1)
            code = (cumulated < uniform_BK[:, k, None]).sum(-1).clamp(max=self.number - 1)
            codes.append(code)
            step = self.codes(self.get_buffer("waves")[code])[:, None]
            streams = [(step, torch.cat([mask, mask.new_ones(len(mask), 1)], 1), cache) for _, mask, cache in streams]
        return self.restore(torch.stack(codes, dim=1))
