import numpy as np
import pytest

from clickherd.data.store import Batch, FieldLayout, Layout
from clickherd.importance import permutation_importance

LAYOUT = Layout(
    (FieldLayout("site", 0, 10), FieldLayout("noise", 10, 10), FieldLayout("tags", 20, 10, multi=True)),
    ("price",),
)


@pytest.fixture
def batch() -> Batch:
    """The site decides most clicks, the first tag and the price some, noise none."""
    rng = np.random.default_rng(0)
    rows = 4_000
    ids = np.stack([rng.integers(0, 10, rows), rng.integers(10, 20, rows)], axis=1).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(1, 4, rows))]).astype(np.int64)
    tags = rng.integers(20, 30, offsets[-1]).astype(np.int32)
    price = rng.standard_normal((rows, 1)).astype(np.float32)
    batch = Batch(ids, ((tags, offsets),), price, np.zeros(rows, np.float32), np.empty(0, np.uint64))
    labels = (rng.random(rows) < predict(batch)).astype(np.float32)
    return Batch(ids, batch.bags, price, labels, batch.groups)


def predict(batch: Batch) -> np.ndarray:
    tags, offsets = batch.bags[0]
    tag_means = np.add.reduceat(tags - 24.5, offsets[:-1]) / np.diff(offsets)
    logit = 0.6 * (batch.ids[:, 0] - 4.5) + 0.3 * tag_means + 0.5 * batch.numeric[:, 0]
    return 1 / (1 + np.exp(-logit))


def test_the_field_that_matters_most_comes_first_and_the_unused_one_changes_nothing(batch: Batch) -> None:
    found = permutation_importance(predict, batch, LAYOUT)
    assert [field.name for field in found] == ["site", "tags", "price", "noise"]
    assert found[0].auc_drop_mean > 0.1
    assert found[0].logloss_rise_mean > 0.1
    assert all(field.auc_drop_std > 0 for field in found[:3])
    unused = found[-1]
    assert (unused.auc_drop_mean, unused.auc_drop_std, unused.logloss_rise_mean) == (0, 0, 0)


def test_every_call_sees_one_shuffled_column_and_whole_bags(batch: Batch) -> None:
    seen = []

    def watch(shuffled: Batch) -> np.ndarray:
        parts = [shuffled.ids[:, 0], shuffled.ids[:, 1], shuffled.bags[0][0], shuffled.numeric[:, 0]]
        seen.append([part.copy() for part in parts])
        bags = [sorted(map(tuple, np.split(b.bags[0][0], b.bags[0][1][1:-1]))) for b in (shuffled, batch)]
        assert bags[0] == bags[1]
        return predict(shuffled)

    permutation_importance(watch, batch, LAYOUT, repeats=2)
    assert len(seen) == 1 + 2 * 4
    for call, parts in enumerate(seen[1:]):
        for column, (part, original) in enumerate(zip(parts, seen[0], strict=True)):
            assert np.array_equal(part, original) == (column != [0, 1, 2, 3][call // 2])
            assert np.array_equal(np.sort(part), np.sort(original))


def test_the_same_seed_gives_the_same_importance(batch: Batch) -> None:
    first, again, other = (permutation_importance(predict, batch, LAYOUT, repeats=1, seed=s) for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_one_class_only_gives_no_importance(batch: Batch) -> None:
    alike = Batch(batch.ids, batch.bags, batch.numeric, np.zeros_like(batch.labels), batch.groups)
    assert permutation_importance(predict, alike, LAYOUT) == []


def test_no_repeats_is_refused(batch: Batch) -> None:
    with pytest.raises(ValueError, match="repeats = 0"):
        permutation_importance(predict, batch, LAYOUT, repeats=0)
