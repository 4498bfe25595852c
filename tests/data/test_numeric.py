import math

import numpy as np
import pytest

from clickherd.data.numeric import (
    BucketCounter,
    LogSquareBuckets,
    MinMax,
    NumberSummary,
    QuantileBuckets,
    SampleCounter,
    Standard,
    log_square_buckets,
    quantile_edges,
)

NAN = math.nan


def test_log_square_buckets_are_those_of_criteo_x4():
    values = np.array([-3.7, -1, 0, 1, 1.9, 2, 3, 10, 1000, 1e6])
    by_definition = [int(x) if x <= 2 else math.floor(math.log(x) ** 2) for x in values.tolist()]
    assert log_square_buckets(values).tolist() == by_definition
    assert by_definition[-3:] == [5, 47, 190]


@pytest.mark.parametrize("extra", [[], [400_000_000]])  # a dense and a sparse range of buckets
def test_log_square_ids_go_by_frequency_and_unseen_buckets_are_unknown(extra):
    transform = LogSquareBuckets(buckets=(5, -1, 1, *extra))
    assert transform.encode(np.array([10.0, -1, 1, NAN, 1e6, 0, -9])).tolist() == [2, 3, 4, 1, 0, 0, 0]
    assert transform.size == 5 + len(extra)


def test_log_square_survives_extreme_values():
    assert log_square_buckets(np.array([1e308, -1e308])).tolist() == [math.floor(math.log(1e308) ** 2), -(2**31)]
    assert LogSquareBuckets(buckets=()).encode(np.array([1.0, NAN])).tolist() == [0, 1]


def test_quantile_buckets_hold_equally_many_rows():
    values = np.random.default_rng(0).lognormal(size=10_000)
    transform = QuantileBuckets(edges=quantile_edges(values, 10))
    ids = transform.encode(values)
    assert np.bincount(ids)[2:].tolist() == [1000] * 10
    assert transform.encode(np.array([-1.0, 1e9, NAN])).tolist() == [2, 11, 1]


def test_quantile_edges_of_repeated_values_leave_no_empty_bucket():
    values = np.array([0.0] * 80 + [0.5] * 15 + [1.0] * 5)
    edges = quantile_edges(values, 10)
    assert set(QuantileBuckets(edges=edges).encode(values)) == set(range(2, 3 + len(edges)))
    assert quantile_edges(np.empty(0), 10) == ()


def test_scalings():
    values = np.array([-5.0, 0, 5, 10, 20, NAN])
    assert MinMax(low=0, high=10).scale(values).tolist() == [0, 0, 0.5, 1, 1, 0]
    assert Standard(mean=5, std=5).scale(values).tolist() == [-2, -1, 0, 1, 3, 0]
    assert MinMax(low=3, high=3).scale(np.array([3.0])).tolist() == [0]
    assert Standard(mean=3, std=0).scale(np.array([3.0])).tolist() == [0]


def test_summary_over_chunks_is_that_of_all_values():
    values = np.random.default_rng(1).normal(1e6, 3, 1000)
    summary = NumberSummary()
    for chunk in np.array_split(np.append(values, [NAN] * 7), 9):
        summary.add(chunk)
    summary.add(np.array([NAN]))
    assert (summary.count, summary.missing) == (1000, 8)
    assert (summary.low, summary.high) == (values.min(), values.max())
    assert summary.mean == pytest.approx(values.mean(), rel=1e-12)
    assert summary.std == pytest.approx(values.std(), rel=1e-6)


def test_buckets_are_counted_over_chunks():
    counter = BucketCounter()
    for chunk in (np.array([1.0, 1.0, -1e9]), np.empty(0), np.array([1.0, 0.0, 0.0])):
        counter.add(chunk)
    assert counter.finish() == [(1, 3), (0, 2), (-1_000_000_000, 1)]


def test_sample_is_bounded_uniform_and_does_not_depend_on_chunks():
    values = np.arange(10_000.0)
    samples = []
    for parts in (1, 7, 100):
        counter = SampleCounter(500)
        first = 0
        for chunk in np.array_split(values, parts):
            counter.add(chunk, first)
            first += len(chunk)
        samples.append(np.sort(counter.sample()))
    assert len(samples[0]) == 500
    assert np.array_equal(samples[0], samples[1])
    assert np.array_equal(samples[0], samples[2])
    assert samples[0].mean() == pytest.approx(5000, abs=3 * 10_000 / math.sqrt(12 * 500))
