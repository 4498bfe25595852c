"""Slerp, text diffs, the pick of candidates, principal components and buckets, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from clickherd.creative.latent import PCA, Buckets, pick, slerp, text_diff

ROOT_HALF = math.sqrt(0.5)
vectors = st.lists(st.floats(-3, 3, width=32), min_size=4, max_size=4).map(lambda v: torch.tensor([v]))


def at(degrees: float, length: float = 1.0) -> Tensor:
    angle = math.radians(degrees)
    return torch.tensor([[length * math.cos(angle), length * math.sin(angle)]])


def close(got: Tensor, want: Tensor | list[object], tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(got, torch.as_tensor(want, dtype=got.dtype), atol=tolerance, rtol=tolerance)


def test_half_way_between_two_axes() -> None:
    close(slerp(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 0.5), [[ROOT_HALF, ROOT_HALF]])


@pytest.mark.parametrize("apart", [10, 60, 120, 170])
@pytest.mark.parametrize("t", [0, 0.1, 0.25, 0.5, 0.9, 1])
def test_the_angle_is_linear_in_t(apart: float, t: float) -> None:
    close(slerp(at(20), at(20 + apart), t), at(20 + t * apart))


def test_lengths_are_interpolated_beside_the_angle() -> None:
    close(slerp(at(0, 2), at(90, 4), 0.25), at(22.5, 2.5))


def test_each_row_has_its_own_arc() -> None:
    a, b = torch.cat([at(0), at(10, 2), at(90)]), torch.cat([at(90), at(10, 6), at(30)])
    close(slerp(a, b, 0.5), torch.cat([at(45), at(10, 4), at(60)]))


def test_points_in_one_direction_go_along_the_line() -> None:
    close(slerp(torch.tensor([[1.0, 1.0]]), torch.tensor([[3.0, 3.0]]), 0.25), [[1.5, 1.5]])


@pytest.mark.parametrize("degrees", [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1])
def test_points_in_nearly_one_direction_are_no_trouble(degrees: float) -> None:
    for kind in (torch.float32, torch.float64):
        between = slerp(at(40).to(kind), at(40 + degrees).to(kind), 0.5)
        close(between, at(40 + degrees / 2).to(kind), 2e-7)


@pytest.mark.parametrize("other", [at(180), at(180, 5), at(180.01)])
def test_opposite_points_have_no_way_between_them(other: Tensor) -> None:
    with pytest.raises(ValueError, match="two points are opposite"):
        slerp(torch.cat([at(0), at(0)]), torch.cat([at(90), other]), 0.5)


@given(a=vectors, b=vectors, t=st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_ends_unit_length_and_symmetry(a: Tensor, b: Tensor, t: float) -> None:
    assume(min(float(a.norm()), float(b.norm())) > 0.1)
    a, b = a / a.norm(), b / b.norm()
    assume(float((a * b).sum()) > -0.999)
    between = slerp(a, b, t)
    close(slerp(a, b, 0), a, 1e-5)
    close(slerp(a, b, 1), b, 1e-5)
    close(between.norm(dim=1), [1.0], 1e-5)
    close(between, slerp(b, a, 1 - t), 1e-4)
    # in the plane of a and b, and t of the angle away from a
    angle = math.acos(max(-1, min(1, float((a.double() * b.double()).sum()))))
    assert float((a * between).sum()) == pytest.approx(math.cos(t * angle), abs=1e-5)
    assert float((b * between).sum()) == pytest.approx(math.cos((1 - t) * angle), abs=1e-5)


def test_a_text_diff_in_the_plane() -> None:
    # z_t − z_t0 = (0, 1.6), so z_d is the second axis, whatever is along the first; a third of the way there is 30°
    image, before, after = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.6, -0.8]]), torch.tensor([[0.6, 0.8]])
    close(text_diff(image, before, after, 1 / 3), [[math.sqrt(0.75), 0.5]])
    close(text_diff(image, after, before, 1 / 3), [[math.sqrt(0.75), -0.5]])


def test_a_text_diff_in_space() -> None:
    image, before, after = torch.eye(3)[2:], torch.eye(3)[:1], torch.eye(3)[1:2]
    # z_d = (−1, 1, 0)/√2, at a right angle to z_i
    close(text_diff(image, before, after, 0.5), [[-0.5, 0.5, ROOT_HALF]])


def test_the_ends_of_a_text_diff() -> None:
    image, before, after = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    close(text_diff(image, before, after, 0), image / image.norm(dim=1, keepdim=True))
    difference = after - before
    close(text_diff(image, before, after, 1), difference / difference.norm(dim=1, keepdim=True))


def test_texts_that_say_the_same_have_no_difference() -> None:
    image = torch.eye(2)
    with pytest.raises(ValueError, match="two descriptions have the same embedding"):
        text_diff(image, torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([[0.0, 1.0], [0.6, 0.8]]), 0.3)


def test_the_candidate_nearest_its_text_is_kept() -> None:
    candidates = torch.tensor([[[1.0, 0.0], [0.6, 0.8]], [[0.0, 1.0], [1.0, 0.0]], [[-1.0, 0.0], [0.8, 0.6]]])
    text = torch.tensor([[0.1, 0.9], [0.6, 0.8]])  # dots .1, .9, −.1 for the first text; 1, .6, .96 for the second
    close(pick(candidates, text), [[0.0, 1.0], [0.6, 0.8]])
    close(pick(candidates[:1], text), candidates[0])


def test_the_components_of_points_on_a_line() -> None:
    pca = PCA.fit(torch.tensor([[1.0, 1.0], [4.0, 5.0], [-2.0, -3.0]]))  # (1, 1) + k (3, 4)
    close(pca.mean, [1.0, 1.0])
    close(pca.components[0] * pca.components[0, 0].sign(), [0.6, 0.8])
    close(pca.variance, [25.0, 0.0], 1e-5)  # of −5, 0 and 5, with N − 1 below
    assert pca.kept(0.999) == 1
    close(pca.project(torch.tensor([[4.0, 5.0]]), 1).abs(), [[5.0]])


def test_the_components_of_an_ellipse() -> None:
    pca = PCA.fit(torch.tensor([[11.0, 0.0], [9.0, 0.0], [10.0, 3.0], [10.0, -3.0]]))
    close(pca.mean, [10.0, 0.0])
    close(pca.variance, [6.0, 2 / 3])  # the long axis first: 18/3 and 2/3
    close(pca.components.abs(), [[0.0, 1.0], [1.0, 0.0]])
    assert [pca.kept(share) for share in (0.5, 0.89, 0.91, 1)] == [1, 1, 2, 2]
    point = torch.tensor([[12.0, 2.0]])
    close(pca.project(point, 2).abs(), [[2.0, 2.0]])
    close(pca.restore(pca.project(point, 1)), [[10.0, 2.0]])  # what is across the long axis is gone
    close(pca.restore(torch.zeros(1, 0)), [[10.0, 0.0]])


def test_all_components_restore_any_point_and_are_orthogonal() -> None:
    points = torch.randn(30, 6, generator=torch.Generator().manual_seed(1)) @ torch.diag(torch.arange(1.0, 7))
    pca = PCA.fit(points)
    close(pca.components @ pca.components.T, torch.eye(6), 1e-5)
    assert pca.variance.tolist() == sorted(pca.variance.tolist(), reverse=True)
    close(pca.project(points, 6).var(0), pca.variance, 1e-4)
    new = torch.randn(5, 6, generator=torch.Generator().manual_seed(2))
    close(pca.restore(pca.project(new, 6)), new, 1e-5)
    errors = [float((pca.restore(pca.project(points, k)) - points).square().sum()) / 29 for k in range(7)]
    assert errors == pytest.approx([float(pca.variance[k:].sum()) for k in range(7)], rel=1e-4, abs=1e-4)


def test_fewer_points_than_dimensions() -> None:
    points = torch.randn(4, 9, generator=torch.Generator().manual_seed(3))
    pca = PCA.fit(points)
    assert pca.components.shape == (3, 9)
    close(pca.restore(pca.project(points, 3)), points, 1e-5)


@given(scales=st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=40), share=st.floats(0.01, 1))
@settings(max_examples=200, deadline=None)
def test_the_components_kept_are_the_fewest_that_hold_the_share(scales: list[float], share: float) -> None:
    variance = torch.tensor(sorted(scales, reverse=True))
    number = PCA(torch.zeros(1), torch.zeros(len(scales), 1), variance).kept(share)
    assert 1 <= number <= len(scales)
    total = math.fsum(variance.tolist())
    assert math.fsum(variance[:number].tolist()) / total >= share - 1e-12
    assert math.fsum(variance[: number - 1].tolist()) / total < share + 1e-12


def test_codes_by_hand() -> None:
    buckets = Buckets(torch.tensor([0.0, -1.0]), torch.tensor([4.0, 1.0]), 4)  # of width 1 and 0.5
    points = torch.tensor([[0, -1], [0.99, -0.51], [1, -0.5], [2.5, 0], [3.99, 0.49], [4, 1], [9, 7], [-9, -7]])
    assert buckets.codes(points).T.tolist() == [[0, 0, 1, 2, 3, 3, 3, 0], [0, 0, 1, 2, 2, 3, 3, 0]]
    assert buckets.codes(points).dtype == torch.int64
    close(buckets.middles(torch.tensor([[0, 0], [3, 3], [1, 2]])), [[0.5, -0.75], [3.5, 0.75], [1.5, 0.25]])


def test_buckets_span_the_range_of_each_coordinate() -> None:
    buckets = Buckets.fit(torch.tensor([[1.0, -2.0], [0.0, 5.0], [0.5, 0.0]]), 8)
    assert (buckets.low.tolist(), buckets.high.tolist(), buckets.number) == ([0, -2], [1, 5], 8)


def test_a_coordinate_that_never_varies_is_restored() -> None:
    points = torch.tensor([[2.0, 0.0], [2.0, 1.0]])
    buckets = Buckets.fit(points, 4)
    close(buckets.middles(buckets.codes(points)), [[2.0, 0.125], [2.0, 0.875]])


@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=20), st.integers(2, 64))
@settings(max_examples=100, deadline=None)
def test_a_middle_is_half_a_bucket_away_at_most(values: list[float], number: int) -> None:
    points = torch.tensor(values)[:, None]
    buckets = Buckets.fit(points, number)
    codes = buckets.codes(points)
    assert 0 <= int(codes.min()) <= int(codes.max()) < number
    half = float(buckets.high - buckets.low) / number / 2
    assert float((buckets.middles(codes) - points).abs().max()) <= half + 1e-4
