"""CLIP (Radford et al., ICML 2021, https://arxiv.org/abs/2103.00020): images and captions in one space.

The network is transformers' CLIPModel; here it is made, trained (the loss), loaded from a folder, and asked.

    L_image→text = −mean_b log softmax_u(s · z_b · z_u)[caption of b]             over the U captions of the batch
    L_text→image = −mean_u mean_{b of caption u} log softmax_b(s · z_u · z_b)
    L = (L_image→text + L_text→image) / 2,   s = exp(logit_scale), at most 100

Each caption stands once in a batch, with all images that have it as its positives (Khosla et al. 2020, eq. 2): repeated
captions, the rule where captions are classes, would otherwise be called wrong for each other's images.

Shapes: B images, U captions, L tokens, D dimensions of the common space, W width of the text encoder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, log_softmax, normalize
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast
from transformers import logging as transformers_logging

from clickherd.checkpoint import write_text
from clickherd.creative.config import ClipConfig
from clickherd.errors import DataError, RunError

BEGIN, END, PAD = "<|startoftext|>", "<|endoftext|>", "<|pad|>"
SHORTEST, LONGEST = 24, 77  # tokens of a context whose length is chosen by itself
MAX_SCALE = math.log(100)  # of the logits, as in the paper
QUOTED = 60  # characters of a caption in an error


@dataclass(frozen=True)
class Texts:
    """Encoded captions: unit embeddings (U, D), the encoder's outputs (U, L, W), and which tokens are real (U, L)."""

    embedding: Tensor
    tokens: Tensor
    mask: Tensor

    def __getitem__(self, rows: Tensor) -> Texts:
        return Texts(self.embedding[rows], self.tokens[rows], self.mask[rows])

    def __len__(self) -> int:
        return len(self.embedding)


class Clip(nn.Module):
    """A CLIP with its tokenizer and its way of seeing images: uint8 pixels and strings in, unit embeddings out."""

    def __init__(
        self, model: CLIPModel, tokenizer: PreTrainedTokenizerFast, mean: Sequence[float], std: Sequence[float]
    ):
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.size: int = model.config.vision_config.image_size
        self.context_length: int = model.config.text_config.max_position_embeddings
        self.embedding_dim: int = model.config.projection_dim
        self.text_width: int = model.config.text_config.hidden_size
        self.register_buffer("mean", torch.tensor(mean).reshape(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(3, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def pixels(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S), uint8 or in [−1, 1], as the network sees them: at its size, normalised."""
        x = images.float() / 255 if images.dtype == torch.uint8 else (images + 1) / 2
        if x.shape[-1] != self.size:
            x = interpolate(x, size=(self.size, self.size), mode="bicubic", antialias=True).clamp(0, 1)
        return (x - self.mean) / self.std

    def tokenize(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids and the mask of real ones, (U, L) each, L the longest caption's length.

        Raises:
            DataError: a caption is empty or longer than the context; its beginning is quoted.
        """
        for caption in captions:
            if not caption.strip():
                raise DataError(f"an empty caption, {caption!r}", mend="Say what the picture is to show.")
        encoded = self.tokenizer(list(captions), padding=True, return_tensors="pt", split_special_tokens=True)
        lengths = encoded["attention_mask"].sum(1)
        if int(lengths.max()) > self.context_length:
            longest = int(lengths.argmax())
            raise DataError(
                f"the caption {quoted(captions[longest])} has {int(lengths[longest]) - 2} tokens, and this CLIP reads "
                f"{self.context_length - 2} at most",
                mend="Shorten it, or train with a larger clip.context_length.",
            )
        device = self.mean.device
        return encoded["input_ids"].to(device), encoded["attention_mask"].to(device)

    def encode_text(self, captions: Sequence[str]) -> Texts:
        """Unit embeddings and token states of the captions."""
        ids, mask = self.tokenize(captions)
        out = self.model.text_model(input_ids=ids, attention_mask=mask)
        embedding = normalize(self.model.text_projection(out.pooler_output), dim=-1)
        return Texts(embedding, out.last_hidden_state, mask.bool())

    def encode_image(self, images: Tensor) -> Tensor:
        """Unit embeddings (B, D) of images (B, 3, S, S), uint8 or in [−1, 1]."""
        out = self.model.vision_model(pixel_values=self.pixels(images))
        return normalize(self.model.visual_projection(out.pooler_output), dim=-1)

    def loss(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        """The contrastive loss of images (B, 3, S, S) and their captions."""
        distinct, caption_B = np.unique(np.asarray(captions, dtype=object), return_inverse=True)
        scale = self.model.logit_scale.clamp(max=MAX_SCALE).exp()
        z_BD, z_UD = self.encode_image(images), self.encode_text(distinct.tolist()).embedding
        with torch.autocast(z_BD.device.type, enabled=False):  # bf16 would round logits near 100 to halves
            logits_BU = scale.float() * z_BD.float() @ z_UD.float().T
        return contrastive(logits_BU, torch.from_numpy(caption_B).to(logits_BU.device))

    def save(self, folder: Path) -> None:
        """In the format of transformers, with the tokenizer."""
        with quiet():
            self.model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
        # transformers' own readers take it from here; torchvision or not
        seen = {
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": True,
            "size": {"height": self.size, "width": self.size},
            "do_rescale": True,
            "do_normalize": True,
            "do_center_crop": False,
            "image_mean": self.mean.flatten().tolist(),
            "image_std": self.std.flatten().tolist(),
        }
        write_text(folder / "preprocessor_config.json", json.dumps(seen, indent=1))


def contrastive(logits_BU: Tensor, caption_B: Tensor) -> Tensor:
    """The multi-positive loss at this file's head, from the scaled similarities and each image's caption."""
    to_text = cross_entropy(logits_BU, caption_B)
    log_share_UB = log_softmax(logits_BU.T, dim=1)
    own_UB = torch.nn.functional.one_hot(caption_B, logits_BU.shape[1]).T.to(logits_BU.dtype)
    to_image = -((log_share_UB * own_UB).sum(1) / own_UB.sum(1)).mean()
    return (to_text + to_image) / 2


def new_clip(config: ClipConfig, size: int, captions: Sequence[str]) -> Clip:
    """An untrained CLIP for images of `size` px, with a tokenizer learned from the captions."""
    tokenizer, length = context_for(config, captions)
    tower = {"hidden_act": "quick_gelu", "projection_dim": config.embedding_dim}
    model = CLIPModel(
        CLIPConfig(
            projection_dim=config.embedding_dim,
            text_config={
                **tower,
                "vocab_size": len(tokenizer),
                "hidden_size": config.text.width,
                "intermediate_size": 4 * config.text.width,
                "num_hidden_layers": config.text.layers,
                "num_attention_heads": config.text.heads,
                "max_position_embeddings": length,
                "bos_token_id": tokenizer.convert_tokens_to_ids(BEGIN),
                "eos_token_id": tokenizer.convert_tokens_to_ids(END),
                "pad_token_id": tokenizer.convert_tokens_to_ids(PAD),
            },
            vision_config={
                **tower,
                "image_size": size,
                "patch_size": config.patch_size,
                "hidden_size": config.image.width,
                "intermediate_size": 4 * config.image.width,
                "num_hidden_layers": config.image.layers,
                "num_attention_heads": config.image.heads,
            },
        )
    )
    return Clip(model, tokenizer, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def quoted(caption: str) -> str:
    """A caption for an error's text: of a long one the beginning."""
    return repr(caption if len(caption) <= QUOTED else f"{caption[:QUOTED]}…")


def context_for(config: ClipConfig, captions: Sequence[str]) -> tuple[PreTrainedTokenizerFast, int]:
    """A tokenizer learned from the captions, and how many tokens CLIP is to read."""
    tokenizer = learn_tokenizer(captions, config.vocabulary_size)
    if config.context_length is not None:
        return tokenizer, config.context_length
    longest = max(lengths_of(tokenizer, captions).values())
    return tokenizer, min(max(math.ceil(1.25 * longest), SHORTEST), LONGEST)


def lengths_of(tokenizer: PreTrainedTokenizerFast, captions: Sequence[str]) -> dict[str, int]:
    """Tokens of each distinct caption, with the one at its beginning and the one at its end."""
    distinct = list(dict.fromkeys(captions))
    return dict(zip(distinct, map(len, tokenizer(distinct, split_special_tokens=True)["input_ids"]), strict=True))


def learn_tokenizer(captions: Sequence[str], vocabulary_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE in lower case, as CLIP's, learned from these captions; any text can be written in it."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase(), normalizers.Strip()])
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    learner = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        # END is not the id 2, by which transformers knows the first CLIPs and their way of finding the end
        special_tokens=[BEGIN, END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(captions, learner)
    ends = [(token, bpe.token_to_id(token)) for token in (BEGIN, END)]
    bpe.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A {END}", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=BEGIN, eos_token=END, pad_token=PAD, clean_up_tokenization_spaces=False
    )


def load_clip(folder: Path) -> Clip:
    """A CLIP in the format of transformers: config.json, model.safetensors, a tokenizer, preprocessor_config.json.

    Raises:
        RunError: the folder is missing or holds no such CLIP, or weights are missing or of another width.
    """
    from transformers import AutoTokenizer

    mend = "It takes a folder as save_pretrained of transformers' CLIPModel writes it."
    if (folder / "clip" / "config.json").is_file():
        mend = f"Did you mean {folder / 'clip'}? {mend}"
    if not folder.is_dir():
        raise RunError(
            "a file, not the folder of a CLIP" if folder.exists() else "no such folder", file=folder, mend=mend
        )
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        if not (folder / name).is_file():
            raise RunError(f"no {name} in the folder of the CLIP", file=folder, mend=mend)
    try:
        seen = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        mean, std = seen["image_mean"], seen["image_std"]
        with quiet():
            model, found = CLIPModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=torch.float32
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise RunError(f"this is no CLIP that transformers can load: {error}", file=folder) from error
    wrong = [*found["missing_keys"], *found["mismatched_keys"]]
    if wrong:
        raise RunError(f"weights are missing or of another shape, the first is {wrong[0]}", file=folder)
    return Clip(model, tokenizer, mean, std)


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and notes of transformers inside; what is wrong is told by our own errors."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
