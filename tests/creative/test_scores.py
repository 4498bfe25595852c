"""Scores of creatives against closed forms, slow loops and answers known by hand."""

import itertools
import math

import numpy as np
import pytest

from clickherd.creative import scores


def sample(mean, root, rows, seed):
    """Rows whose mean and unbiased covariance (root·rootᵀ) are exactly as given."""
    noise = np.random.default_rng(seed).standard_normal((rows, len(mean)))
    noise -= noise.mean(axis=0)
    white = noise @ np.linalg.inv(np.linalg.cholesky(np.cov(noise.T).reshape(len(mean), -1))).T
    return white @ np.asarray(root).T + mean


def test_fid_of_one_dimension_is_the_closed_form():
    real, generated = sample([1.0], [[2.0]], 50, 0), sample([4.0], [[0.5]], 50, 1)
    assert scores.fid(real, generated) == pytest.approx(3**2 + (2 - 0.5) ** 2)


def test_fid_of_two_dimensions_is_the_closed_form():
    # Σ_r = diag(4, 1), Σ_g = [[1, .5], [.5, 1]]: tr (Σ_r Σ_g)^½ = √(tr Σ_rΣ_g + 2 √det Σ_rΣ_g) for 2×2
    real = sample([0.0, 1.0], np.diag([2.0, 1.0]), 40, 0)
    generated = sample([2.0, 1.0], np.linalg.cholesky([[1, 0.5], [0.5, 1]]), 40, 1)
    shared = math.sqrt((4 + 1) + 2 * math.sqrt(4 * 0.75))
    assert scores.fid(real, generated) == pytest.approx(4 + (5 + 2 - 2 * shared))
    assert scores.fid(generated, real) == pytest.approx(scores.fid(real, generated))


def test_fid_of_the_same_rows_is_zero_also_with_fewer_rows_than_features():
    rows = np.random.default_rng(0).standard_normal((10, 30)).astype(np.float32)
    assert scores.fid(rows, rows[::-1]) == pytest.approx(0, abs=1e-5)
    assert scores.fid(rows, rows + 1) == pytest.approx(30, rel=1e-5)


@pytest.mark.parametrize("score", [scores.fid, lambda a, b: scores.kid(a, b, seed=0)])
def test_what_cannot_be_compared_is_refused(score):
    rows = np.random.default_rng(0).standard_normal((6, 3))
    with pytest.raises(ValueError, match=r"6 real and 5 generated rows.*compare equal numbers"):
        score(rows, rows[:5])
    with pytest.raises(ValueError, match="at least 2"):
        score(rows[:1], rows[:1])
    with pytest.raises(ValueError, match="3 features of real images, 2 of generated"):
        score(rows, rows[:, :2])
    with pytest.raises(ValueError, match="generated_ND holds NaN"):
        score(rows, np.where(rows == rows[2, 1], np.nan, rows))
    with pytest.raises(ValueError, match=r"real_ND has shape \(6,\)"):
        score(rows[:, 0], rows)


def test_kid_is_the_double_loop():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((4, 3)), rng.standard_normal((4, 3)) + 0.5

    def kernel(a, b):
        return (a @ b / 3 + 1) ** 3

    within = sum(kernel(a[i], a[j]) for a in (x, y) for i, j in itertools.permutations(range(4), 2)) / 12
    across = sum(kernel(a, b) for a in x for b in y) / 16
    mean, deviation = scores.kid(x, y, subsets=3, subset_size=4, seed=0)
    assert mean == pytest.approx(within - 2 * across)
    assert deviation == pytest.approx(0, abs=1e-12)


def test_kid_is_unbiased_and_sees_a_shift():
    rng = np.random.default_rng(0)
    same = [scores.kid(*rng.standard_normal((2, 40, 4)), subsets=20, seed=seed)[0] for seed in range(200)]
    error = np.std(same) / math.sqrt(len(same))
    assert abs(np.mean(same)) < 3 * error
    assert min(same) < 0
    x, y = rng.standard_normal((2, 40, 4))
    mean, deviation = scores.kid(x, y + 1, subsets=20, seed=0)
    assert mean > 100 * error
    assert deviation > 0
    assert scores.kid(x, y + 1, subsets=20, seed=0) == (mean, deviation)


def test_kid_is_unbiased_where_each_generated_row_is_made_after_a_real_one():
    rng = np.random.default_rng(0)
    found = []
    for seed in range(200):
        x = rng.standard_normal((40, 4))
        found.append(scores.kid(x, x + 1e-3 * rng.standard_normal((40, 4)), subsets=20, seed=seed)[0])
    assert abs(np.mean(found)) < 3 * np.std(found) / math.sqrt(len(found))


@pytest.mark.parametrize("size", [1, 7])
def test_a_subset_that_cannot_be_drawn_is_refused(size):
    rows = np.ones((6, 2))
    with pytest.raises(ValueError, match=f"subset_size = {size}: from 2 to the number of rows, 6"):
        scores.kid(rows, rows, subset_size=size, seed=0)


def test_psnr_by_hand():
    a = np.zeros((3, 3, 2, 2), np.uint8)
    b = a.copy()
    b[1] = 255
    b[2, 0] = 51  # a fifth of the range in a third of the values
    got = scores.psnr(a, b, 255)
    assert got[0] == math.inf
    assert got[1:] == pytest.approx([0, 10 * math.log10(3 * 25)])
    assert scores.psnr(b, a, 255) == pytest.approx(got)  # bytes do not wrap round
    with pytest.raises(ValueError, match="equal ones"):
        scores.psnr(a, b[:2], 255)


def test_retrieval_counts_any_item_with_the_same_caption():
    # images 0 and 1 share caption 7; both lie nearer to it than the third does, image 1 the nearest
    text = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    image = np.array([[0.9, 0.1], [1.0, 0.0], [0.8, 0.6]])
    got = scores.retrieval(image, text, [7, 7, 3], ks=(1, 2))
    # caption 7 finds image 1 first, which is right though image 0 is its pair too; caption 3 finds image 2 first;
    # image 2 takes caption 7 (.8) for its own (.6)
    assert got == pytest.approx(
        {"image_to_text@1": 2 / 3, "image_to_text@2": 1, "text_to_image@1": 1, "text_to_image@2": 1}
    )
    apart = scores.retrieval(image, text, [0, 1, 3])  # were the captions three, the ties of two would count against
    assert apart["image_to_text@1"] == 0
    assert apart["text_to_image@1"] == pytest.approx(2 / 3)


def test_equal_embeddings_find_nothing():
    ones = np.ones((30, 4))
    got = scores.retrieval(ones, ones, np.arange(30) // 3)
    assert set(got.values()) == {0.0}


@pytest.mark.parametrize("ks", [(), (0, 1)])
def test_recall_at_nothing_is_refused(ks):
    with pytest.raises(ValueError, match="ks = "):
        scores.retrieval(np.eye(2), np.eye(2), [0, 1], ks=ks)


def test_diversity_by_hand():
    features = np.array([[1, 0], [0, 5], [2, 0], [3, 0], [1, 1], [7, 7], [0, 1]])
    assert scores.diversity(features[:2], ["a", "a"]) == pytest.approx(1)
    # b: orthogonal (1); a: equal (0); c: pairs of cosines 1, √½, √½; d has one sample only
    groups = ["b", "b", "a", "a", "c", "c", "c"]
    want = (1 + 0 + (2 - 2 * math.sqrt(0.5)) / 3) / 3
    assert scores.diversity(features, groups) == pytest.approx(want)
    assert scores.diversity([*features, [1, 2]], [*groups, "d"]) == pytest.approx(want)
    with pytest.raises(ValueError, match="no prompt has two samples"):
        scores.diversity(features[:2], [0, 1])
    with pytest.raises(ValueError, match="row 1 of features_ND is zero"):
        scores.diversity([[1, 0], [0, 0]], [0, 0])


@pytest.mark.parametrize("batch", [3, 7, 1000])
def test_nearest_is_the_brute_force_in_any_batch(batch):
    rng = np.random.default_rng(0)
    samples = rng.integers(0, 256, (10, 3, 4, 4), np.uint8)
    training = rng.integers(0, 256, (25, 3, 4, 4), np.uint8)
    training[13] = samples[4]
    distances = np.sqrt(np.square(samples[:, None].astype(float) - training).sum(axis=(2, 3, 4)))
    index, distance = scores.nearest(samples, training, batch)
    assert index.tolist() == distances.argmin(axis=1).tolist()
    assert distance == pytest.approx(distances.min(axis=1))
    assert distance[4] == 0
    with pytest.raises(ValueError, match="rows of equal shapes"):
        scores.nearest(samples, training[:, :1])


def test_copies_are_found_and_fresh_draws_are_not():
    rng = np.random.default_rng(0)
    training, held_back, fresh = (rng.standard_normal((rows, 8)) for rows in (2000, 1000, 4000))
    copies = training[:300] + 1e-3 * rng.standard_normal((300, 8))
    copied, honest = (scores.memorised(samples, training, held_back) for samples in (copies, fresh))
    assert copied["share"] == 1
    assert copied["ratio"] < 0.01
    assert honest["share"] == pytest.approx(0.01, abs=0.01)
    assert honest["expected_share"] == 0.01
    assert honest["ratio"] == pytest.approx(1, abs=0.05)
    mixed = scores.memorised(np.concatenate([copies, fresh[:300]]), training, held_back, quantile=0.05)
    assert mixed["share"] == pytest.approx(0.525, abs=0.03)


def test_copies_are_found_where_held_back_images_have_twins_in_the_training_set():
    rng = np.random.default_rng(0)
    training = rng.standard_normal((100, 8))
    held_back = np.concatenate([training[:2], rng.standard_normal((98, 8))])
    found = scores.memorised(training[50:60], training, held_back)
    assert (found["share"], found["expected_share"], found["threshold"]) == (1, 0.02, 0)
    with pytest.raises(ValueError, match="half of the held-back images are in the training set"):
        scores.memorised(training, training, training[:10])
    with pytest.raises(ValueError, match="quantile = 1"):
        scores.memorised(training, training, held_back, quantile=1)
