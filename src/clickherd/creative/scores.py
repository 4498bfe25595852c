"""Scores of generated images and of embeddings, from arrays alone: distance of distributions, retrieval, copying.

Shapes: N rows, D features. Whatever is called an embedding or a feature may be any real numbers, (N, D); sums run in
float64. What the features are (a judge's, CLIP's, pixels) is the caller's choice, and a score means nothing without it.

Errors shared by all: ValueError when shapes differ, when there are no rows, or when a number is NaN or infinite.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

LARGEST_SUBSET = 1000  # rows, as in Bińkowski et al.


def fid(real_ND: npt.ArrayLike, generated_ND: npt.ArrayLike) -> float:
    """Fréchet distance of two Gaussians with the rows' means and covariances (Heusel et al., NIPS 2017, eq. 6).

        d² = ‖μ_r − μ_g‖² + tr(Σ_r + Σ_g − 2 (Σ_r Σ_g)^½)            https://arxiv.org/abs/1706.08500

    tr (Σ_r Σ_g)^½ is the sum of the roots of the eigenvalues of Σ_r^½ Σ_g Σ_r^½, which is symmetric: no complex roots,
    and covariances of less than full rank do no harm. Covariances are unbiased (N − 1).

    Returns:
        d², 0 or more; lower is better. It falls as N grows, so only scores at the same N can be compared.

    Raises:
        ValueError: unequal numbers of rows, or fewer than 2.
    """
    real, generated = _two_samples(real_ND, generated_ND)
    root = _root(_covariance(real))
    shared = np.linalg.eigvalsh(root @ _covariance(generated) @ root).clip(min=0)
    shift = real.mean(axis=0) - generated.mean(axis=0)
    spread = real.var(axis=0, ddof=1).sum() + generated.var(axis=0, ddof=1).sum() - 2 * np.sqrt(shared).sum()
    return float(max(shift @ shift + spread, 0.0))


def kid(
    real_ND: npt.ArrayLike,
    generated_ND: npt.ArrayLike,
    *,
    subsets: int = 50,
    subset_size: int | None = None,
    seed: int,
) -> tuple[float, float]:
    """Kernel distance (Bińkowski et al., ICLR 2018, https://arxiv.org/abs/1801.01401, section 4): unbiased MMD².

        k(x, y) = (x·y/D + 1)³
        MMD² = Σ_{i≠j} k(x_i, x_j)/(m(m−1)) + Σ_{i≠j} k(y_i, y_j)/(m(m−1)) − 2 Σ_{ij} k(x_i, y_j)/m²

    A generated image is often made from the caption of the real one in the same row. Two such rows are not independent
    and would push the score below 0, so the two subsets of a pair are of different rows (as far as m ≤ N/2 allows).

    Args:
        real_ND: features of real images.
        generated_ND: features of generated images, as many.
        subsets: how many pairs of subsets are drawn, each without replacement; the two have no row in common where
            2m ≤ N.
        subset_size: m; by default half of the rows, 1,000 at most.
        seed: of the subsets.

    Returns:
        Mean and standard deviation over the subsets. The mean is about 0 (and may be below it) for equal distributions.
        The subsets overlap: the deviation tells how far one subset's score strays, not the error of the mean.

    Raises:
        ValueError: unequal numbers of rows, or a subset of fewer than 2 rows or more than there are.
    """
    real, generated = _two_samples(real_ND, generated_ND)
    size = max(min(len(real) // 2, LARGEST_SUBSET), 2) if subset_size is None else subset_size
    if not 2 <= size <= len(real):
        raise ValueError(f"subset_size = {size}: from 2 to the number of rows, {len(real)}")
    if subsets < 1:
        raise ValueError(f"subsets = {subsets}: at least 1 is needed")
    rng = np.random.default_rng(seed)
    orders = (rng.permutation(len(real)) for _ in range(subsets))
    drawn = [_mmd2(real[order[:size]], generated[order[-size:]]) for order in orders]
    return float(np.mean(drawn)), float(np.std(drawn))


def psnr(a: npt.ArrayLike, b: npt.ArrayLike, peak: float) -> Floats:
    """Peak signal-to-noise ratio of each image, 10·log₁₀(peak² / mean squared error), (N,) in dB; inf where equal.

    Args:
        a: images, (N, …).
        b: as many, to compare one by one.
        peak: the range of values: 255 for uint8, 2 for floats in [−1, 1].
    """
    first, second = np.asarray(a), np.asarray(b)
    if first.shape != second.shape or first.ndim < 2:
        raise ValueError(f"images of shapes {first.shape} and {second.shape}: equal ones, (N, …), are needed")
    error = _rows(first, "a") - _rows(second, "b")
    with np.errstate(divide="ignore"):
        decibels: Floats = 10 * np.log10(peak**2 / np.square(error).mean(axis=1))
    return decibels


def retrieval(
    image_ND: npt.ArrayLike, text_ND: npt.ArrayLike, caption_ids_N: npt.ArrayLike, ks: Sequence[int] = (1, 5)
) -> dict[str, float]:
    """Recall@k by cosine where captions repeat: whatever has the same caption counts as found.

    With captions such as "a red shoe" shared by many images, recall of the one paired item would call right answers
    wrong. Here an image looks among the distinct captions for its own (one is right), and each distinct caption looks
    among all images for any of its own (the right ones may be many). Ties count against: equal embeddings find nothing.

    Args:
        image_ND: image embeddings.
        text_ND: the embedding of each image's caption; equal captions have equal ones, and the first is taken.
        caption_ids_N: equal for equal captions, (N,).
        ks: how many answers count, each at least 1.

    Returns:
        `image_to_text@k`, the share of images, and `text_to_image@k`, the share of distinct captions, for each k.
    """
    image, text = _unit(image_ND, "image_ND"), _unit(text_ND, "text_ND")
    caption_ids = np.asarray(caption_ids_N)
    if image.shape != text.shape or caption_ids.shape != image.shape[:1]:
        raise ValueError(f"images {image.shape}, texts {text.shape}, captions {caption_ids.shape}: N or D differ")
    if not ks or min(ks) < 1:
        raise ValueError(f"ks = {tuple(ks)}: at least one number, each 1 or more")
    distinct, first, caption = np.unique(caption_ids, return_index=True, return_inverse=True)
    texts, captions = text[first], np.arange(len(distinct))
    ranks = {
        "image_to_text": _ranks(image, caption, texts, captions),
        "text_to_image": _ranks(texts, captions, image, caption),
    }
    return {f"{way}@{k}": float((rank < k).mean()) for way, rank in ranks.items() for k in ks}


def diversity(features_ND: npt.ArrayLike, groups_N: npt.ArrayLike) -> float:
    """Mean of 1 − cosine over all pairs of samples of the same prompt, averaged over prompts.

    0 where a prompt always gives the same image, 1 where its samples have nothing in common. Judge it by the same score
    of real images grouped by caption: below that, the samples vary less than the data do.

    Args:
        features_ND: features of the samples; cosines depend on where zero lies, so centre features that are all
            positive (by the mean of real images) before.
        groups_N: equal for samples of the same prompt, (N,). Prompts with one sample have no pairs and do not count.

    Raises:
        ValueError: no prompt has two samples, or a feature vector is zero.
    """
    unit = _unit(features_ND, "features_ND")
    groups = np.asarray(groups_N)
    if groups.shape != unit.shape[:1]:
        raise ValueError(f"groups_N has shape {groups.shape}, features_ND {unit.shape}")
    _, group, count = np.unique(groups, return_inverse=True, return_counts=True)
    if count.max() < 2:
        raise ValueError("diversity is undefined: no prompt has two samples")
    order = np.argsort(group, kind="stable")
    total = np.add.reduceat(unit[order], np.cumsum(count) - count, axis=0)
    pairs = (count * (count - 1))[count > 1]
    cosines = (np.square(total).sum(axis=1) - count)[count > 1]  # |Σu|² = n + Σ_{i≠j} u_i·u_j
    return float((1 - cosines / pairs).mean())


def nearest(samples: npt.ArrayLike, training: npt.ArrayLike, batch: int = 1024) -> tuple[Ints, Floats]:
    """The nearest training row of each sample, by L2: its index and its distance, (N,) both; the first of equals.

    Args:
        samples: features (N, D) or images (N, …), which are flattened.
        training: rows of the same shape; may be a memory map.
        batch: rows of either that are in memory as float64 at a time.
    """
    wanted, given = np.asarray(samples), np.asarray(training)
    if wanted.ndim < 2 or wanted.shape[1:] != given.shape[1:] or not len(wanted) or not len(given):
        raise ValueError(f"samples {wanted.shape}, training {given.shape}: rows of equal shapes are needed, (N, …)")
    if batch < 1:
        raise ValueError(f"batch = {batch}: at least 1 is needed")
    index, distance = np.zeros(len(wanted), np.int64), np.zeros(len(wanted))
    for start in range(0, len(wanted), batch):
        part = slice(start, start + batch)
        index[part], distance[part] = _nearest_of(_rows(wanted[part], "samples"), given, batch)
    return index, distance


def memorised(
    samples_ND: npt.ArrayLike,
    training_ND: npt.ArrayLike,
    held_back_ND: npt.ArrayLike,
    *,
    quantile: float = 0.01,
    batch: int = 1024,
) -> dict[str, float]:
    """Whether samples copy training images: are they nearer to them than real images that were not trained on?

    With d(x) the L2 distance of x to its nearest training row, a sample x counts as a copy when

        d(x) ≤ t,   t the q-quantile of d over held-back real images, q = `quantile`

    A model that draws from the data's own distribution has d as the held-back images have, so q of its samples count by
    chance alone (q = 0.01 keeps that floor low and still rests on several images when a thousand are held back).
    Comparing with held-back images follows Meehan et al., AISTATS 2020, https://arxiv.org/abs/2004.05675 (data-copying:
    samples nearer to the training set than the test set is); a threshold on the distance to the nearest training image
    follows Carlini et al., USENIX Security 2023, https://arxiv.org/abs/2301.13188, section 4.2, whose threshold is
    absolute.

    A soft image lies nearer to everything, in pixels above all: a share above q asks for a look at the pairs that
    `nearest` gives, and features that do not see softness tell more. Samples must be of the captions that the held-back
    images have, and these must come from where the training images come from.

    Returns:
        `share` of samples that count as copies; `expected_share`, the same of the held-back images (q, or more where
        they are few or distances are equal); `threshold` t; `median_samples` and `median_held_back` of d; and their
        `ratio`, about 1 without copying and far below 1 with it.

    Raises:
        ValueError: quantile outside ]0, 1[, or half of the held-back images are in the training set.
    """
    if not 0 < quantile < 1:
        raise ValueError(f"quantile = {quantile}: between 0 and 1, both excluded")
    of_samples = nearest(samples_ND, training_ND, batch)[1]
    of_held_back = nearest(held_back_ND, training_ND, batch)[1]
    threshold = np.quantile(of_held_back, quantile, method="inverted_cdf")
    median_samples, median_held_back = np.median(of_samples), np.median(of_held_back)
    if median_held_back == 0:
        raise ValueError("half of the held-back images are in the training set: hold back others")
    return {
        "share": float((of_samples <= threshold).mean()),
        "expected_share": float((of_held_back <= threshold).mean()),
        "threshold": float(threshold),
        "median_samples": float(median_samples),
        "median_held_back": float(median_held_back),
        "ratio": float(median_samples / median_held_back),
    }


def _rows(values: npt.ArrayLike, name: str) -> Floats:
    """As float64, (N, D), what follows N flattened; at least one row, all finite."""
    array = np.asarray(values)
    if array.ndim < 2 or not len(array):
        raise ValueError(f"{name} has shape {array.shape}: rows, (N, D), are needed")
    rows: Floats = array.reshape(len(array), -1).astype(np.float64)
    if not np.isfinite(rows).all():
        raise ValueError(f"{name} holds NaN or infinite numbers")
    return rows


def _unit(values: npt.ArrayLike, name: str) -> Floats:
    rows = _rows(values, name)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    if not length.all():
        raise ValueError(f"row {int(np.argmin(length))} of {name} is zero: it has no cosine")
    unit: Floats = rows / length
    return unit


def _two_samples(real_ND: npt.ArrayLike, generated_ND: npt.ArrayLike) -> tuple[Floats, Floats]:
    real, generated = _rows(real_ND, "real_ND"), _rows(generated_ND, "generated_ND")
    if real.shape[1] != generated.shape[1]:
        raise ValueError(f"{real.shape[1]} features of real images, {generated.shape[1]} of generated ones")
    if len(real) != len(generated):
        raise ValueError(
            f"{len(real)} real and {len(generated)} generated rows: FID's bias and KID's spread depend on the sample "
            "size: compare equal numbers"
        )
    if len(real) < 2:
        raise ValueError("1 row has no covariance: at least 2 are needed")
    return real, generated


def _covariance(rows: Floats) -> Floats:
    centred = rows - rows.mean(axis=0)
    covariance: Floats = centred.T @ centred / (len(rows) - 1)
    return covariance


def _root(covariance: Floats) -> Floats:
    """The symmetric root of a covariance."""
    values, vectors = np.linalg.eigh(covariance)
    root: Floats = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    return root


def _mmd2(x: Floats, y: Floats) -> float:
    """Unbiased MMD² of two samples of equal size with the cubic kernel."""
    m = len(x)

    def kernel(a: Floats, b: Floats) -> Floats:
        gram: Floats = a @ b.T / a.shape[1] + 1
        return gram**3

    within = sum(float(k.sum() - np.trace(k)) for k in (kernel(x, x), kernel(y, y)))
    return within / (m * (m - 1)) - 2 * float(kernel(x, y).mean())


def _ranks(query: Floats, query_ids: Ints, key: Floats, key_ids: Ints, batch: int = 1024) -> Ints:
    """How many wrong keys are at least as near as the nearest right one, for each query."""
    ranks = np.zeros(len(query), np.int64)
    for start in range(0, len(query), batch):
        part = slice(start, start + batch)
        cosine = query[part] @ key.T
        right = query_ids[part, None] == key_ids
        best = np.where(right, cosine, -np.inf).max(axis=1, keepdims=True)
        ranks[part] = (~right & (cosine >= best)).sum(axis=1)
    return ranks


def _nearest_of(rows: Floats, training: npt.NDArray[Any], batch: int) -> tuple[Ints, Floats]:
    """The nearest training row of each of a few rows, and its distance."""
    best, index = np.full(len(rows), np.inf), np.zeros(len(rows), np.int64)
    for start in range(0, len(training), batch):
        others = _rows(training[start : start + batch], "training")
        squared = np.square(others).sum(axis=1) - 2 * rows @ others.T  # less |row|², the same for all
        here = squared.argmin(axis=1)
        least = squared[np.arange(len(rows)), here]
        nearer = least < best
        best[nearer], index[nearer] = least[nearer], start + here[nearer]
    # from the difference itself: the sums above lose the digits of a small distance, and a copy's is exactly 0
    distance: Floats = np.linalg.norm(rows - training[index].reshape(len(rows), -1), axis=1)
    return index, distance
