"""Scenes read back from the pixels of the source's own images, and attributes that were not obeyed."""

import numpy as np
import pytest

from genimg_jax.data import shapes
from genimg_jax.errors import DataError
from genimg_jax.evaluation import attributes, scene_reader

SIDE = 32


@pytest.fixture(scope="module")
def drawn():
    """Scenes that no other test of the source draws, their images, and what was read in these."""
    scene = shapes.scenes(11, np.arange(128))
    images = shapes.draw(scene, SIDE)
    return scene, images, scene_reader.read(images)


def test_every_attribute_of_every_scene_is_read(drawn):
    scene, _, found = drawn
    right = attributes.checks(found, scene)
    assert {name: int((~one).sum()) for name, one in right.items()} == dict.fromkeys(right, 0)
    assert shapes.captions(found) == shapes.captions(scene)
    present = scene["kind"] >= 0
    np.testing.assert_array_equal(found["kind"], np.pad(scene["kind"], ((0, 0), (0, 3)), constant_values=-1))
    for name in ("centre", "radius"):
        np.testing.assert_allclose(found[name][:, :2][present], scene[name][present], atol=0.15 / SIDE)
    assert found["residual"].max() < 6


def test_masks_are_exact_to_the_rounding_of_pixels(drawn):
    scene, _, found = drawn
    wanted = shapes.annotations(scene, SIDE)["mask"]
    wrong = found["mask"] != wanted
    coverage = np.maximum(*(shapes.coverage(scene, which, SIDE) for which in (0, 1)))
    # Green is 119 levels from grey, the least of any pair; half a level in each channel is a hundredth of that.
    assert np.abs(coverage[wrong] - 0.5).max(initial=0) < 0.01
    assert wrong.mean() < 5e-4
    assert attributes.overlap(found["mask"], wanted).mean() > 0.995
    np.testing.assert_array_equal(attributes.overlap(wanted, wanted), 1)


def test_captions_are_read_as_they_are_written(drawn):
    scene = drawn[0]
    found = attributes.parse(shapes.captions(scene))
    assert shapes.captions(found) == shapes.captions(scene)
    for name in ("kind", "background", "relation"):
        np.testing.assert_array_equal(found[name], scene[name])
    with pytest.raises(DataError, match="'a cat', that of image 0, is no caption"):
        attributes.parse(["a cat"])


def changed(scene, **how):
    """The scenes that have two objects, one attribute of them another one."""
    two = scene["kind"][:, 1] >= 0
    scene = {name: x[two].copy() for name, x in scene.items()}
    for name, (column, count) in how.items():
        index = (slice(None), column) if column is not None else slice(None)
        scene[name][index] = (scene[name][index] + 1) % count
    return scene, two


@pytest.mark.parametrize(
    ("how", "failing"),
    [
        ({"kind": (0, 5)}, "large_kind"),
        ({"kind": (1, 5)}, "small_kind"),
        ({"colour": (0, 6)}, "large_colour"),
        ({"colour": (1, 6)}, "small_colour"),
        ({"relation": (None, 4)}, "relation"),
    ],
)
def test_one_broken_attribute_fails_its_own_check_alone(drawn, how, failing):
    scene, images, _ = drawn
    asked, two = changed(scene, **how)
    results = attributes.prompt_accuracy(images[two], captions=shapes.captions(asked))
    assert {name for name, one in results.items() if one.estimate == 0} == {failing, "caption"}
    assert {one.estimate for one in results.values()} == {0, 1}


def test_what_is_missing_or_too_much_is_seen(drawn):
    scene = drawn[0]
    two = scene["kind"][:, 1] >= 0
    lone = {**scene, "kind": np.where([True, False], scene["kind"], -1), "relation": np.full(len(two), -1)}
    results = attributes.prompt_accuracy(shapes.draw(lone, SIDE)[two], captions=np.array(shapes.captions(scene))[two])
    assert (results["objects"].estimate, results["small_kind"].estimate, results["large_kind"].estimate) == (0, 0, 1)
    blank = np.full((2, SIDE, SIDE, 3), shapes.COLOURS["white"], np.uint8)
    found = scene_reader.read(blank)
    assert (found["kind"] == -1).all() and (found["mask"] == 0).all() and (found["residual"] == 0).all()
    assert not attributes.checks(found, {n: x[:2] for n, x in scene.items()})["caption"].any()
    shrunk = {**lone, "radius": np.full_like(scene["radius"], 0.12)}
    results = attributes.prompt_accuracy(shapes.draw(shrunk, SIDE), captions=shapes.captions(lone))
    assert (results["sizes"].estimate, results["large_kind"].estimate, results["small_kind"]) == (0, 1, None)


def test_masks_that_were_not_filled(drawn):
    scene, images, _ = drawn
    wanted = shapes.annotations(scene, SIDE)["mask"]
    overlaps = [
        attributes.prompt_accuracy(images, masks=np.roll(wanted, by, 2))["mask_overlap"].estimate for by in (0, 2, 16)
    ]
    assert overlaps[0] > 0.99 > 0.9 > overlaps[1] > 0.3 > overlaps[2]
    assert attributes.prompt_accuracy(images, masks=np.zeros_like(wanted)) == {"mask_overlap": None}  # nothing to fill


@pytest.mark.parametrize(("shift", "scale"), [(2, 0), (0, 8)])
def test_what_no_one_would_see_shows_in_the_residual_and_spares_the_attributes(drawn, shift, scale):
    scene, images, clean = drawn
    noise = np.random.default_rng(0).normal(shift, scale, images.shape)
    found = scene_reader.read(np.clip(images + noise, 0, 255).astype(np.uint8))
    assert np.median(found["residual"] - clean["residual"]) > 0.5
    right = attributes.checks(found, scene)
    assert right["caption"].mean() > 0.98 and right["objects"].all()


def test_other_images_are_refused():
    with pytest.raises(DataError, match="square u8 images"):
        scene_reader.read(np.zeros((1, 8, 8, 1), np.uint8))
