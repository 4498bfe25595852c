"""The built-in product shots: what is drawn is what the caption says."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from clickherd.creative import products
from clickherd.creative.products import BACKGROUNDS, COLOURS, HELD_OUT, OBJECTS, POSITIONS, Shot
from clickherd.errors import UserError


def inside(shot: Shot, size: int, seed: int, part: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """The drawing, and which pixels change with the object's colour, by at least this part of the greatest change."""
    image = shot.draw(size, np.random.default_rng(seed))
    other = "black" if shot.colour in ("yellow", "orange", "pink") else "yellow"
    changed = Shot(shot.object, other, shot.background, shot.position).draw(size, np.random.default_rng(seed))
    change = np.abs(image.astype(int) - changed).sum(axis=2)
    return image, change > part * change.max()


def nearest(rgb: np.ndarray, named: dict[str, tuple[int, int, int]]) -> str:
    """The name of the closest colour."""
    return min(named, key=lambda name: float(np.abs(rgb - np.array(named[name])).sum()))


def test_captions_have_one_grammar() -> None:
    assert Shot("mug", "red", "grey", "left").caption == "a red mug on the left, grey background"
    assert Shot("hat", "orange", "sky", "centre").caption == "an orange hat in the centre, sky background"
    assert Shot("lamp", "black", "sand", "right").caption == "a black lamp on the right, sand background"


def test_pairs_are_held_out_once_per_object_and_colour_and_never_drawn() -> None:
    assert {pair[0] for pair in HELD_OUT} == set(OBJECTS)
    assert {pair[1] for pair in HELD_OUT} == set(COLOURS)
    assert len(HELD_OUT) == 8
    seen = {(shot.object, shot.colour) for shot in products.shots(2000, 3)}
    assert seen == set(itertools.product(OBJECTS, COLOURS)) - HELD_OUT
    assert {(shot.object, shot.colour) for shot in products.shots(200, 3, heldout=True)} == HELD_OUT


def test_every_combination_is_drawn_as_often_as_any_other() -> None:
    counts = Counter(products.shots(1500, 5))
    assert len(counts) == 56 * 4 * 3
    assert set(counts.values()) == {2, 3}
    assert len(set(products.shots(96, 5, heldout=True))) == 96
    assert products.shots(0, 1) == []
    assert products.shots(50, 1) == products.shots(50, 1) != products.shots(50, 2)


def test_a_number_below_zero_is_an_error() -> None:
    with pytest.raises(UserError, match="number = -1"):
        products.shots(-1, 0)


def test_the_same_seed_draws_the_same_pixels_and_no_two_shots_are_alike() -> None:
    shot = Shot("mug", "red", "grey", "left")
    rng = np.random.default_rng(1)
    first, second = shot.draw(32, rng), shot.draw(32, rng)
    assert first.shape == (32, 32, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, shot.draw(32, np.random.default_rng(1)))
    assert not np.array_equal(first, second)


def test_another_size_shows_the_same_scene() -> None:
    for object_ in OBJECTS:
        shot = Shot(object_, "blue", "sand", "right")
        small = shot.draw(32, np.random.default_rng(2)).astype(float)
        large = shot.draw(64, np.random.default_rng(2)).reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
        assert np.abs(small - large).mean() < 1.5


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("colour", COLOURS)
def test_objects_have_the_colour_of_their_caption(colour: str, size: int) -> None:
    for seed, (object_, background) in enumerate(itertools.product(OBJECTS, BACKGROUNDS)):
        image, where = inside(Shot(object_, colour, background, "centre"), size, seed, part=0.6)
        assert nearest(image[where].mean(axis=0), products.RGB) == colour
        _, all_of_it = inside(Shot(object_, colour, background, "centre"), size, seed)
        assert where.sum() > 0.4 * all_of_it.sum()


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_backgrounds_are_those_of_the_caption_and_no_colour_of_an_object(background: str) -> None:
    named = products.BACKGROUND_RGB | products.RGB
    for seed, object_ in enumerate(OBJECTS):
        image, where = inside(Shot(object_, "red", background, "left"), 32, seed)
        assert nearest(np.median(image[~where], axis=0), named) == background


def test_objects_stand_where_the_caption_says_and_are_never_cut_off() -> None:
    for seed, (object_, position) in enumerate(itertools.product(OBJECTS, POSITIONS)):
        for draw in range(10):
            _, where = inside(Shot(object_, "green", "white", position), 32, 100 * draw + seed)
            middle = np.nonzero(where)[1].mean() / 31
            assert POSITIONS[min(2, int(3 * (middle - 0.1) / 0.8))] == position
            assert not where[[0, -1]].any()
