"""The judge learns to read images, shakes them without changing what they show, and comes back from disk the same."""

import numpy as np
import pytest
import torch

from clickherd import checkpoint
from clickherd.creative.judge import Judge, JudgeConfig, agreement, augmented, train_judge
from clickherd.errors import RunError

COLOURS = np.array([[220, 40, 40], [40, 200, 60], [50, 70, 230], [230, 210, 50]])
QUICK = JudgeConfig(width=16, steps=110, batch_size=64, learning_rate=3e-3)  # all right for each of the seeds 0 to 5


def squares(count, side=16, seed=0):
    """A coloured square in the left or right half of a noisy grey image."""
    rng = np.random.default_rng(seed)
    labels = {
        "colour": rng.integers(0, 4, count),
        "side": rng.integers(0, 2, count) * 5 + 3,
        "made": np.ones(count, int),
    }
    images = rng.integers(90, 150, (count, 3, side, side))
    size = side // 4
    x = rng.integers(0, size + 1, count) + (labels["side"] == 8) * 2 * size
    y = rng.integers(0, side - size + 1, count)
    at = np.arange(side)
    across = (at >= x[:, None]) & (at < x[:, None] + size)
    down = (at >= y[:, None]) & (at < y[:, None] + size)
    inside = (down[:, :, None] & across[:, None, :])[:, None]
    return np.where(inside, COLOURS[labels["colour"]][:, :, None, None], images).astype(np.uint8), labels


@pytest.fixture(scope="module")
def trained():
    images, labels = squares(1200)
    told = []
    judge = train_judge(images, labels, np.arange(800), QUICK, 0, lambda *said: told.append(said))
    return judge, images, labels, told


def test_it_reads_images_that_it_was_not_trained_on(trained):
    judge, images, labels, told = trained
    right = agreement(judge.predict(images[800:]), {name: column[800:] for name, column in labels.items()})
    assert right.keys() == {"colour", "side", "all"}  # `made` has one value: nothing to learn
    assert right["all"] > 0.95, right
    assert [step for step, _ in told] == [20, 40, 60, 80, 100, 110]
    assert told[-1][1] < 0.3 < told[0][1]


def test_features_are_the_same_in_any_batch_and_from_tensors_and_memory_maps(trained, tmp_path):
    judge, images, _, _ = trained
    whole = judge.features(images[:50])
    assert (whole.shape, whole.dtype) == ((50, 32), np.float32)
    np.save(tmp_path / "images.npy", images[:50])
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    np.testing.assert_allclose(judge.features(mapped, batch_size=7), whole, atol=1e-5)
    np.testing.assert_array_equal(judge.features(torch.from_numpy(images[:50])), whole)
    assert judge.features(images[:0]).shape == (0, 32)
    assert judge.predict(images[:0])["side"].shape == (0,)


@pytest.mark.parametrize("side", [16, 64, 128])
def test_it_takes_any_side_and_shrinks_what_is_larger(side):
    images, labels = squares(24, side)
    judge = train_judge(images, labels, np.arange(24), JudgeConfig(width=8, steps=2, batch_size=8), 0)
    assert judge.shrunk(torch.zeros(1, 3, side, side)).shape[-1] == min(side, 32)
    assert {name: logits.shape for name, logits in judge(torch.zeros(5, 3, side, side)).items()} == {
        "colour": (5, 4),
        "side": (5, 2),
    }


def test_the_default_judge_is_small():
    judge = Judge(JudgeConfig(), {"class": range(10), "colour": range(8)})
    assert 0.4e6 < sum(p.numel() for p in judge.parameters()) < 0.7e6


def test_the_same_seed_gives_the_same_weights_and_leaves_torchs_random_numbers_alone():
    images, labels = squares(64)
    short = JudgeConfig(width=8, steps=3, batch_size=16)
    state = torch.random.get_rng_state()
    first, again, other = (train_judge(images, labels, np.arange(60), short, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["heads.weight"], other["heads.weight"])


def test_it_trains_on_its_rows_only():
    images, labels = squares(64)
    short = JudgeConfig(width=8, steps=3, batch_size=16)
    rows = np.arange(0, 64, 2)
    want = train_judge(images, labels, rows, short, 0).state_dict()
    images[1::2] = 0
    labels["colour"][1::2] = 0
    got = train_judge(images, labels, rows, short, 0).state_dict()
    assert all(torch.equal(want[name], got[name]) for name in want)


def test_augmentation_keeps_place_and_colour():
    images, labels = squares(200, 32)
    floats = torch.from_numpy(images).float() / 127.5 - 1
    changed = augmented(floats)
    assert changed.shape == floats.shape
    assert (changed - floats).abs().mean() > 0.02
    bright = changed.amax(dim=1) - changed.amin(dim=1)  # grey has none
    centre = (bright.square().sum(dim=1) * torch.arange(32)).sum(dim=1) / bright.square().sum(dim=(1, 2))
    np.testing.assert_array_equal((centre > 15.5).numpy(), labels["side"] == 8)
    mean_shift = (changed - floats).mean(dim=(2, 3))
    assert (mean_shift - mean_shift.mean(dim=1, keepdim=True)).abs().max() < 0.08  # channels change alike


def test_it_comes_back_from_disk_the_same(trained, tmp_path):
    judge, images, _, _ = trained
    judge.save(tmp_path / "judge.safetensors")
    state = torch.random.get_rng_state()
    loaded = Judge.load(tmp_path / "judge.safetensors")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert loaded.config == judge.config
    for name, values in judge.predict(images[:100]).items():
        np.testing.assert_array_equal(loaded.predict(images[:100])[name], values)
    assert set(loaded.predict(images[:100])["side"]) == {3, 8}


def test_a_file_that_does_not_fit_is_refused(trained, tmp_path):
    judge = trained[0]
    path = tmp_path / "judge.safetensors"
    checkpoint.save(path, judge.state_dict(), {})
    with pytest.raises(RunError, match="holds no judge"):
        Judge.load(path)
    facts = {"judge": {**judge.config.model_dump(), "width": 24}, "classes": {"colour": [0, 1, 2, 3], "side": [3, 8]}}
    checkpoint.save(path, judge.state_dict(), facts)
    with pytest.raises(RunError, match="do not fit the judge's settings"):
        Judge.load(path)


def test_agreement_by_hand():
    judged = {"colour": np.array([0, 1, 2, 3]), "side": np.array([0, 0, 1, 1]), "size": np.zeros(4)}
    asked = {"colour": np.array([0, 1, 2, 0]), "side": np.array([0, 1, 1, 0]), "made": np.ones(4)}
    assert agreement(judged, asked) == {"colour": 0.75, "side": 0.5, "all": 0.5}
    with pytest.raises(ValueError, match=r"no label is both judged \(size\) and asked for \(made\)"):
        agreement({"size": judged["size"]}, {"made": asked["made"]})
    with pytest.raises(ValueError, match="label 'side'"):
        agreement(judged, {"side": np.zeros(3)})


def test_what_it_cannot_learn_from_is_refused():
    images, labels = squares(20)
    rows, short = np.arange(20), JudgeConfig(width=8, steps=1)
    for wrong, said in [
        ({"made": labels["made"]}, "no label to learn: none of made has two or more values in the 20 rows"),
        ({}, "no label to learn"),
        ({"side": labels["side"][:5]}, "label 'side' has shape"),
        ({"side": labels["side"] * 0.5}, "type float64"),
        ({"all": labels["side"]}, "may not be called 'all'"),
    ]:
        with pytest.raises(ValueError, match=said):
            train_judge(images, wrong, rows, short, 0)
    with pytest.raises(ValueError, match="1001 values: 1000 at most"):
        train_judge(np.zeros((1001, 3, 16, 16), np.uint8), {"id": np.arange(1001)}, np.arange(1001), short, 0)
    with pytest.raises(ValueError, match="at least one index"):
        train_judge(images, labels, [], short, 0)
    with pytest.raises(ValueError, match="type float64"):
        train_judge(images / 255, labels, rows, short, 0)
    with pytest.raises(ValueError, match=r"\(N, 3, S, S\)"):
        train_judge(images.transpose(0, 2, 3, 1), labels, rows, short, 0)
