"""What one does to points of CLIP's latent space: slerp, text diffs, PCA (Ramesh et al. 2022, sections 2.2, 3 and 4).

Shapes: N points, D dimensions of the embedding, K principal components.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

PARALLEL = 1e-6  # below this angle, or this near to π, an arc has no plane


def slerp(a_ND: Tensor, b_ND: Tensor, t: float) -> Tensor:
    """Spherical interpolation, t = 0 gives a and t = 1 gives b (Shoemake 1985); (N, D).

        slerp(a, b, t) = [sin((1 − t)Ω) a + sin(tΩ) b] / sin Ω,   Ω the angle between a and b

    Lengths are interpolated between those of a and b, so that it serves unit embeddings and noise alike.
    Points in (nearly) the same direction are interpolated along the line.

    Raises:
        ValueError: two points are opposite: no arc between them is the shortest.
    """
    unit_a, unit_b = normalize(a_ND, dim=-1), normalize(b_ND, dim=-1)
    cosine = (unit_a * unit_b).sum(-1, keepdim=True).clamp(-1, 1)
    if bool((cosine < PARALLEL - 1).any()):
        raise ValueError("two points are opposite: there is no one way between them")
    angle = torch.acos(cosine)
    sine = torch.sin(angle)
    near = sine < PARALLEL
    safe = torch.where(near, torch.ones_like(sine), sine)
    share_a = torch.where(near, torch.full_like(angle, 1 - t), torch.sin((1 - t) * angle) / safe)
    share_b = torch.where(near, torch.full_like(angle, t), torch.sin(t * angle) / safe)
    length = (1 - t) * a_ND.norm(dim=-1, keepdim=True) + t * b_ND.norm(dim=-1, keepdim=True)
    between: Tensor = length * normalize(share_a * unit_a + share_b * unit_b, dim=-1)
    return between


def text_diff(image_ND: Tensor, from_ND: Tensor, to_ND: Tensor, theta: float) -> Tensor:
    """An image's embedding turned from one description towards another (section 3.3); unit length, (N, D).

        z_d = normalise(z_t − z_t0),   z_θ = slerp(z_i, z_d, θ)

    Args:
        image_ND: z_i.
        from_ND: z_t0, the text embedding of what is there.
        to_ND: z_t, that of what is wanted.
        theta: 0 leaves the image as it is; the paper goes up to between 0.25 and 0.50.

    Raises:
        ValueError: the two descriptions are embedded alike, so that there is no direction from one to the other.
    """
    difference = to_ND - from_ND
    if bool((difference.norm(dim=-1) < PARALLEL).any()):
        raise ValueError("the two descriptions have the same embedding: there is no direction between them")
    return slerp(normalize(image_ND, dim=-1), normalize(difference, dim=-1), theta)


def pick(candidates_SND: Tensor, text_ND: Tensor) -> Tensor:
    """Of S candidate image embeddings for each text the one with the larger z_i · z_t (section 2.2); (N, D)."""
    best_N = torch.einsum("snd,nd->sn", candidates_SND, text_ND).argmax(0)
    return candidates_SND[best_N, torch.arange(candidates_SND.shape[1], device=candidates_SND.device)]


@dataclass(frozen=True)
class PCA:
    """Principal components of the training images' embeddings, by decreasing eigenvalue."""

    mean: Tensor  # (D,)
    components: Tensor  # (K, D), rows of unit length
    variance: Tensor  # (K,), eigenvalues of the covariance

    def to(self, device: torch.device) -> PCA:
        """The same, there."""
        return PCA(self.mean.to(device), self.components.to(device), self.variance.to(device))

    @classmethod
    def fit(cls, points_ND: Tensor) -> PCA:
        """All components, min(N − 1, D) of them."""
        mean = points_ND.double().mean(0)
        centred = points_ND.double() - mean
        variance, directions = torch.linalg.eigh(centred.T @ centred / max(len(points_ND) - 1, 1))
        number = min(len(points_ND) - 1, points_ND.shape[1])
        order = variance.argsort(descending=True)[:number]
        return cls(mean.float(), directions[:, order].T.float().contiguous(), variance[order].clamp_min(0).float())

    def kept(self, share: float) -> int:
        """How many components hold that share of the variance."""
        held = self.variance.double().cumsum(0) / self.variance.double().sum()
        return min(int((held < share).sum()) + 1, len(held))

    def project(self, points_ND: Tensor, number: int) -> Tensor:
        """Coordinates along the first `number` components; (N, number)."""
        return (points_ND - self.mean) @ self.components[:number].T

    def restore(self, coordinates_NK: Tensor) -> Tensor:
        """The points that have these coordinates and none along the other components; (N, D)."""
        return self.mean + coordinates_NK @ self.components[: coordinates_NK.shape[1]]


@dataclass(frozen=True)
class Buckets:
    """Each coordinate cut into equally wide buckets over its range (section 2.2: 1,024 of them)."""

    low: Tensor  # (K,)
    high: Tensor  # (K,)
    number: int

    @classmethod
    def fit(cls, coordinates_NK: Tensor, number: int) -> Buckets:
        """Over the range that each coordinate has among the points."""
        return cls(coordinates_NK.min(0).values, coordinates_NK.max(0).values, number)

    def codes(self, coordinates_NK: Tensor) -> Tensor:
        """The bucket of each coordinate, int64 (N, K); beyond the range the outermost one."""
        share = (coordinates_NK - self.low) / (self.high - self.low).clamp_min(1e-12)
        return (share * self.number).floor().long().clamp(0, self.number - 1)

    def middles(self, codes_NK: Tensor) -> Tensor:
        """The middle of each bucket; (N, K)."""
        width = (self.high - self.low) / self.number
        return self.low + (codes_NK + 0.5) * width
