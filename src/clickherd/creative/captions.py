"""What a frozen CLIP says of captions: each distinct one encoded once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from clickherd.creative.clip import Clip, Texts

AT_ONCE = 256
KEPT_BYTES = 2**30  # of encoded captions; more of them are encoded anew each time


class CaptionTable:
    """The distinct captions of a set, encoded once if they fit into a gigabyte."""

    def __init__(self, clip: Clip, captions: Sequence[str]) -> None:
        distinct, caption_N = np.unique(np.asarray(captions, dtype=object), return_inverse=True)
        self._clip, self.captions = clip, [str(caption) for caption in distinct]
        self.of_row = torch.from_numpy(caption_N.astype(np.int64))
        length = int(clip.tokenize(self.captions)[1].sum(1).max())
        fits = len(self.captions) * length * clip.text_width * 4 <= KEPT_BYTES
        self._texts = encode_texts(clip, self.captions, length) if fits else None

    def texts(self, rows: np.ndarray) -> Texts:
        """The texts of the captions of these rows."""
        ids = self.of_row[rows]
        if self._texts is not None:
            return self._texts[ids.to(self._texts.embedding.device)]
        distinct, place = np.unique(ids.numpy(), return_inverse=True)
        with torch.no_grad():
            return self._clip.encode_text([self.captions[i] for i in distinct])[torch.from_numpy(place)]


@torch.no_grad()
def encode_texts(clip: Clip, captions: Sequence[str], length: int | None = None) -> Texts:
    """Texts of captions, a part at a time, all as long as the longest or as `length`."""
    parts = [clip.encode_text(captions[i : i + AT_ONCE]) for i in range(0, len(captions), AT_ONCE)]
    longest = length or max(part.mask.shape[1] for part in parts)

    def joined(name: str) -> Tensor:
        padded = []
        for part in parts:
            x = getattr(part, name)
            missing = longest - x.shape[1]
            padded.append(torch.cat([x, x.new_zeros(len(x), missing, *x.shape[2:])], dim=1))
        return torch.cat(padded)

    return Texts(torch.cat([part.embedding for part in parts]), joined("tokens"), joined("mask"))
