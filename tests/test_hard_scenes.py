"""Scenes of three objects and of equal objects to be counted: what is drawn, said, left out of training and read."""

import re

import numpy as np
import pytest
import scipy.ndimage

from genimg_jax import data
from genimg_jax.data import scene_layout, shapes
from genimg_jax.data.types import ShapesOptions
from genimg_jax.errors import DataError
from genimg_jax.evaluation import attributes, scene_reader

SIDE = 32
COLOURS = list(shapes.COLOURS)
OPTIONS = [{"objects": 3}, {"counts": True}, {"objects": 3, "counts": True}]


@pytest.fixture(scope="module")
def drawn():
    """Scenes with both options, their images, and what was read in these."""
    scene = shapes.scenes(11, np.arange(200), objects=3, counts=True)
    images = shapes.draw(scene, SIDE)
    return scene, images, scene_reader.read(images)


def rows(scene, chosen):
    return {name: x[chosen].copy() for name, x in scene.items()}


def of_three(scene):
    return np.flatnonzero((scene["relation"] >= 0).sum(1) == 2)


def of_counts(scene):
    return np.flatnonzero(scene_layout.counted(scene))


def failed(images, asked):
    """The checks that fail for every image; all others must hold for every image."""
    results = attributes.prompt_accuracy(images, captions=shapes.captions(asked))
    shares = {name: one.estimate for name, one in results.items() if one is not None}
    assert set(shares.values()) <= {0, 1}, shares
    return {name for name, share in shares.items() if share == 0}


def test_scenes_that_have_no_third_object_and_no_count_stay_as_they_were():
    positions = np.arange(300)
    plain = shapes.scenes(0, positions)
    assert shapes.captions({name: x[[5, 6]] for name, x in plain.items()}) == [
        "a large blue triangle left of a small yellow triangle on a grey background",
        "a large yellow square above a small red cross on a grey background",
    ]
    assert plain["relation"].shape == (300,) and plain["kind"].shape == (300, 2)
    for options in OPTIONS:
        scene = shapes.scenes(0, positions, **options)
        as_before = np.array([a == b for a, b in zip(shapes.captions(scene), shapes.captions(plain), strict=True)])
        assert 0.2 < as_before.mean() < 0.8
        images = (shapes.draw(each, SIDE)[as_before] for each in (scene, plain))
        np.testing.assert_array_equal(*images)


def test_an_option_is_another_source_with_as_many_segments_as_objects():
    stored = [
        data.shapes.open_shapes(data.Options(source="shapes", shapes=ShapesOptions(9, **o))) for o in [{}, *OPTIONS]
    ]
    assert stored[0].listing == "shapes 0 32" and len({one.listing for one in stored}) == 4
    assert [one.fields["map"] for one in stored] == [3, 4, 5, 5]


@pytest.mark.parametrize("options", OPTIONS)
def test_half_of_the_scenes_are_harder(options):
    scene = shapes.scenes(1, np.arange(4000), **options)
    counted = scene_layout.counted(scene)
    assert np.isclose((counted > 0).mean(), 0.5 if "counts" in options else 0, atol=0.03)
    np.testing.assert_allclose(np.bincount(counted[counted > 0], minlength=5)[2:] / max(1, (counted > 0).sum()),
                               1 / 3 if "counts" in options else 0, atol=0.05)  # fmt: skip
    three = of_three(scene)
    with_small = ((scene["kind"][:, 1] >= 0) & (counted == 0)).sum()
    assert np.isclose(len(three) / with_small, 0.5 if "objects" in options else 0, atol=0.05)
    # All colours and sides differ, and every pair of sides occurs.
    colours, sides = np.sort(scene["colour"][three, :3], 1), scene["relation"][three, :2]
    assert (np.diff(colours, axis=1) > 0).all() and (sides[:, 0] != sides[:, 1]).all()
    assert len(np.unique(sides, axis=0)) == (12 if "objects" in options else 0)


@pytest.mark.parametrize("options", OPTIONS)
def test_annotations_and_captions_are_true_of_the_image(options):
    source = data.open_source(data.Options(source="shapes", size=64, shapes=ShapesOptions(200, **options)), "train")
    everything = np.arange(200)
    image, truth = source.read(everything)["image"].astype(float), source.annotations(everything)
    for i, caption in enumerate(source.captions(everything)):
        mask, present = truth["mask"][i], truth["kind"][i] >= 0
        painted = (image[i] != shapes.COLOURS[COLOURS[truth["background"][i]]]).any(-1)
        parts, number = scipy.ndimage.label(painted, np.ones((3, 3)))
        assert number == present.sum()  # objects do not touch
        said = []
        for which in np.flatnonzero(present):
            inside = scipy.ndimage.binary_erosion(mask == which + 1, np.ones((3, 3)))
            assert len(np.unique(parts[inside])) == 1
            colour = COLOURS[truth["colour"][i, which]]
            assert np.abs(image[i][inside] - shapes.COLOURS[colour]).max() < 30
            said.append(f"{colour} {shapes.KINDS[truth['kind'][i, which]]}")
        if (truth["relation"][i] < 0).all() and number > 1:
            assert len(set(said)) == 1
            number = {2: "two", 3: "three", 4: "four"}[number]
            said = f"{number} small {said[0]}{'es' if said[0].endswith('cross') else 's'}"
        else:
            places = [np.argwhere(mask == which + 1).mean(0) for which in range(number)]
            related = [f"{side(place - places[0])} a small {what}" for place, what in zip(places, said, strict=True)]
            said = " ".join([f"a large {said[0]}", " and ".join(related[1:])]).strip()
        assert caption == f"{said} on a {COLOURS[truth['background'][i]]} background"


def side(offset):
    """Where the large object is, from the way to the small one: (down, across)."""
    down, across = offset
    if abs(across) > abs(down):
        return "left of" if across > 0 else "right of"
    return "above" if down > 0 else "below"


def test_combinations_of_hard_scenes_are_held_out():
    options = data.Options(source="shapes", size=8, shapes=ShapesOptions(4000, holdout=True, objects=3, counts=True))
    train, test, holdout = (data.open_source(options, split) for split in ("train", "test", "holdout"))
    words = [tuple(combination.split(" ")) for combination in holdout.held_out]
    assert len(words) == 24 and words[-1][0] in ("two", "three", "four")

    def shown(caption):
        """The held-out combinations that a caption names, by its words alone."""
        names = [[colour, kind] for colour, kind in re.findall(f"({'|'.join(COLOURS)}) ([a-z]+)", caption)[:-1]]
        number = caption.split(" ")[0]
        if number != "a":
            names = [[names[0][0], names[0][1].removesuffix("es" if "crosses" in caption else "s")]]
            names.append([number, caption.split(" ")[3]])
        for relation, kind in re.findall(f"({'|'.join(shapes.RELATIONS)}) a small [a-z]+ ([a-z]+)", caption):
            names.append([names[0][1], *relation.split(" "), kind])
        return {combination for combination in words if list(combination) in names}

    seen = [[shown(caption) for caption in one.captions(np.arange(one.size))] for one in (train, test, holdout)]
    assert not set().union(*seen[0], *seen[1])
    assert all(seen[2]) and set().union(*seen[2]) == set(words)
    said = " ".join(train.captions(np.arange(train.size)))
    assert all(word in said for word in (*shapes.KINDS, *shapes.PLURALS, *shapes.RELATIONS, *shapes.NUMBERS))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_every_attribute_of_every_scene_is_read(options, count):
    scene = shapes.scenes(12, np.arange(count), **options)
    found = scene_reader.read(shapes.draw(scene, SIDE))
    right = attributes.checks(found, scene)
    assert {name: int((~one).sum()) for name, one in right.items()} == dict.fromkeys(right, 0)
    assert ("third_kind" in right, "count" in right) == ("objects" in options, "counts" in options)
    assert found["residual"].max() < 6
    counts = of_counts(scene)
    assert shapes.captions(rows(found, counts)) == shapes.captions(rows(scene, counts))
    np.testing.assert_allclose(attributes.overlap(found["mask"], shapes.segmentation(scene, SIDE)), 1, atol=0.2)


def test_captions_are_read_as_they_are_written_and_no_other_sentence(drawn):
    texts = shapes.captions(drawn[0])
    parsed = attributes.parse(texts)
    assert shapes.captions(parsed) == texts
    np.testing.assert_array_equal(parsed["kind"], drawn[0]["kind"])
    np.testing.assert_array_equal(parsed["relation"], drawn[0]["relation"])
    large = "a large red circle"
    for foreign in (
        "three small red circle on a grey background",
        "one small red circles on a grey background",
        "three large red circles on a grey background",
        "three small circles on a grey background",
        f"{large} and above a small blue cross on a grey background",
        f"{large} above a small blue cross left of a small green ring on a grey background",
        f"{large} above a small blue cross and a small green ring on a grey background",
        f"{large} above three small blue crosses on a grey background",
        f"{large} on a grey background and left of a small green ring",
    ):
        with pytest.raises(DataError, match="is no caption of a scene"):
            attributes.parse([texts[0], foreign])


def test_the_order_in_which_a_caption_names_small_objects_does_not_matter(drawn):
    scene, images, _ = drawn
    three = of_three(scene)
    asked = rows(scene, three)
    for name in ("kind", "colour"):
        asked[name][:, [1, 2]] = asked[name][:, [2, 1]]
    asked["relation"][:, :2] = asked["relation"][:, 1::-1]
    assert shapes.captions(asked) != shapes.captions(rows(scene, three))
    assert failed(images[three], asked) == set()


@pytest.mark.parametrize(
    ("name", "column", "by", "count", "failing"),
    [
        ("kind", 0, 1, 5, "large_kind"),
        ("kind", 2, 1, 5, "third_kind"),
        ("colour", 2, 1, 6, "third_colour"),
        ("relation", 1, 1, 4, "third_relation"),
        ("relation", 0, 2, 4, "relation"),
    ],
)
def test_one_broken_attribute_of_three_objects_fails_its_own_check_alone(drawn, name, column, by, count, failing):
    scene, images, _ = drawn
    # Kinds differ, so that small objects are not exchanged for each other.
    three = [i for i in of_three(scene) if scene["kind"][i, 1] != scene["kind"][i, 2]]
    asked = rows(scene, three)
    asked[name][:, column] = (asked[name][:, column] + by) % count
    assert failed(images[three], asked) == {failing, "caption"}


def test_swapped_relations_are_seen(drawn):
    scene, images, _ = drawn
    three = [i for i in of_three(scene) if scene["kind"][i, 1] != scene["kind"][i, 2]]
    asked = rows(scene, three)
    asked["relation"][:, :2] = asked["relation"][:, 1::-1]
    assert failed(images[three], asked) == {"relation", "third_relation", "caption"}


def test_what_is_wrong_with_equal_objects_is_seen(drawn):
    scene, images, _ = drawn
    counts = of_counts(scene)[:40]
    asked, number = rows(scene, counts), scene_layout.counted(scene)[counts]
    fewer = rows(scene, counts)
    fewer["kind"][np.arange(len(counts)), number - 1] = -1
    several = number > 2
    assert failed(images[counts][several], rows(fewer, several)) == {"count", "objects", "caption"}
    assert failed(shapes.draw(rows(fewer, several), SIDE), rows(asked, several)) == {"count", "objects", "caption"}
    four = rows(asked, number == 4)
    five = scene_layout.with_slots(four, 5)
    for name, value in (
        ("kind", five["kind"][:, 0]),
        ("colour", five["colour"][:, 0]),
        ("centre", 0.5),
        ("radius", 0.1),
    ):
        five[name][:, 4] = value
    assert failed(shapes.draw(five, SIDE), four) == {"count", "objects", "caption"}
    for name, options in (("kind", len(shapes.KINDS)), ("colour", shapes.OBJECT_COLOURS)):
        one = rows(scene, counts)
        one[name][:, 0] = (one[name][:, 0] + 1) % options
        assert failed(shapes.draw(one, SIDE), asked) == {f"count_{name}", "caption"}
    large = {**asked, "radius": asked["radius"] + np.where(number[:, None] == 2, np.array([0.1, 0, 0, 0]), 0)}
    two = number == 2
    assert failed(shapes.draw(rows(large, two), SIDE), rows(asked, two)) == {"sizes", "caption"}


def test_an_object_too_many_is_seen_in_any_colour(drawn):
    scene, images, _ = drawn
    three = of_three(scene)
    asked = rows(scene, three)
    asked["kind"][:, 2] = asked["relation"][:, 1] = -1
    assert failed(images[three], asked) == {"objects", "caption"}
    same = rows(scene, three)
    same["colour"][:, 2] = same["colour"][:, 0]
    assert failed(shapes.draw(same, SIDE), asked) == {"objects", "caption"}
