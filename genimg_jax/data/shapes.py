"""Procedural scenes with exact ground truth: objects with their positions, colours and masks.

A scene is a large object, whose kind is the label, and sometimes a small one beside it, on a plain background. With
`shapes.objects=3` half of the scenes with a small object have a second one on another side, and with `shapes.counts`
half of all scenes are two to four equal small objects instead. Scene i is a function of (seed, i) and these options
alone, described in units of the image's side, so that it is the same scene at any size.

With `shapes.holdout` some combinations never occur in `train` and `test`; every scene of a third split, `holdout`, has
at least one of them. A model that obeys captions of that split composes what it has learned.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from genimg_jax.data import scene_layout
from genimg_jax.data.scene_layout import COLOURS, KINDS, NUMBERS, OBJECT_COLOURS, PLURALS, RELATIONS
from genimg_jax.data.types import Options, Stored

HOLDOUT = 0x401D  # separates the choice of combinations from the scenes
DEFAULT_SIZE = 32


def open_shapes(options: Options) -> Stored:
    """`shapes.count` scenes as `train`, and a tenth as many others as `test`, drawn at `size` or 32; with
    `shapes.holdout` as many as in `test` as `holdout`."""
    count, seed, counts = options.shapes.count, options.shapes.seed, options.shapes.counts
    side, tenth = options.size or DEFAULT_SIZE, max(1, count // 10)
    splits = {"train": range(count), "test": range(count, count + tenth)}
    holdout = None
    if options.shapes.holdout:
        splits["holdout"] = range(count + tenth, count + 2 * tenth)
        holdout = Holdout(*combinations(seed, counts), splits["holdout"].start)
    at = functools.partial(scenes, seed, holdout=holdout, objects=options.shapes.objects, counts=counts)
    listing = f"shapes {seed} {side}" + (f" holdout from {holdout.start}" if holdout else "")
    if options.shapes.objects > 2:
        listing += f" objects {options.shapes.objects}"

    def names(positions: np.ndarray) -> list[str]:
        return [f"scene {position} of seed {seed}" for position in positions]

    return Stored(
        splits=splits,
        read=functools.partial(_read, at, side, "map" in options.fields),
        fields={"map": 1 + scene_layout.most_objects(options.shapes.objects, counts)},
        classes=KINDS,
        names=names,
        listing=listing + " counts" * counts,
        captions=lambda positions: captions(at(positions)),
        annotations=lambda positions: annotations(at(positions), side),
        held_out=described(holdout) if holdout else (),
    )


class Holdout(NamedTuple):
    """The combinations that only scenes from position `start` on have; see `combinations`."""

    pairs: np.ndarray  # bool[kinds, colours]
    triples: np.ndarray  # bool[kinds, relations, kinds]
    numbers: np.ndarray  # bool[numbers, kinds]
    start: int


def combinations(seed: int, counts: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A tenth of the pairs of an object's kind and colour, a fifth of the triples of the large object's kind, the
    relation and a small object's kind, and with `counts` a tenth of the pairs of a number and a kind.

    No two pairs share a kind, a colour or a number. In every relation each kind is left out once as the large object
    and once as the small one. So every kind, colour, relation and number is still seen in training, beside most of the
    others.
    """  # -> bool[kinds, colours], bool[kinds, relations, kinds], bool[numbers, kinds]
    generator, kinds = np.random.default_rng([seed, HOLDOUT]), np.arange(len(KINDS))

    def tenth(rows: int, columns: int) -> np.ndarray:
        pairs, count = np.zeros((rows, columns), bool), rows * columns // 10
        pairs[generator.permutation(rows)[:count], generator.permutation(columns)[:count]] = True
        return pairs

    pairs = tenth(len(KINDS), OBJECT_COLOURS)
    triples = np.zeros((len(KINDS), len(RELATIONS), len(KINDS)), bool)
    for relation, shift in enumerate(generator.permutation(len(KINDS))[: len(RELATIONS)]):
        triples[kinds, relation, (kinds + shift) % len(KINDS)] = True
    return pairs, triples, tenth(len(NUMBERS), len(KINDS)) & counts


def described(holdout: Holdout) -> tuple[str, ...]:
    """Each combination in words, such as "red circle", "circle above cross" and "three circles"."""
    colours = list(COLOURS)
    pairs = [f"{colours[colour]} {KINDS[kind]}" for kind, colour in np.argwhere(holdout.pairs)]
    triples = [f"{KINDS[a]} {RELATIONS[relation]} {KINDS[b]}" for a, relation, b in np.argwhere(holdout.triples)]
    numbers = [f"{NUMBERS[number]} {PLURALS[kind]}" for number, kind in np.argwhere(holdout.numbers)]
    return (*pairs, *triples, *numbers)


def has_combination(scene: dict[str, np.ndarray], holdout: Holdout) -> np.ndarray:  # -> bool[B]
    scene = scene_layout.with_slots(scene)
    kind, relation = scene["kind"], scene["relation"]
    number = scene_layout.counted(scene)
    pairs = holdout.pairs[kind, scene["colour"]] & (kind >= 0)
    triples = holdout.triples[kind[:, :1], relation, kind[:, 1:]] & (relation >= 0)
    return pairs.any(axis=1) | triples.any(axis=1) | (holdout.numbers[number - 2, kind[:, 0]] & (number > 0))


def scenes(
    seed: int, positions: np.ndarray, holdout: Holdout | None = None, objects: int = 2, counts: bool = False
) -> dict[str, np.ndarray]:
    """The scenes at some positions, of N objects at most: `objects`, or 4 with `counts`. The first one is the large
    one, or one of the equal ones; kind -1 means that there is no such object.

    `kind` and `colour` i32[B, N] index KINDS and COLOURS, `background` i32[B] indexes COLOURS, `centre` f32[B, N, 2] is
    (x, y) from the upper left corner and `radius` f32[B, N] that of the circle around it, in units of the side, `angle`
    f32[B, N] is in radians, and `relation` i32[B, N - 1], or i32[B] where N is 2, indexes RELATIONS: that of the large
    object to each other one (-1 where there is none). A scene that the holdout does not allow at its position is drawn
    again.
    """
    count = scene_layout.draws_of_scene(objects, counts)
    generators = [np.random.default_rng([seed, position]) for position in positions.tolist()]
    draws = np.stack([generator.random(count) for generator in generators])
    scene = scene_layout.arrange(draws, objects, counts)
    while holdout and (wrong := np.flatnonzero(has_combination(scene, holdout) != (positions >= holdout.start))).size:
        draws[wrong] = [generators[i].random(count) for i in wrong]
        scene = scene_layout.arrange(draws, objects, counts)
    return scene


def _box(x: np.ndarray, y: np.ndarray, width: float, height: float) -> np.ndarray:  # signed distance, as all below
    across, along = np.abs(x) - width, np.abs(y) - height
    return np.hypot(np.maximum(across, 0), np.maximum(along, 0)) + np.minimum(np.maximum(across, along), 0)


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(y, np.abs(x) * np.float32(3**0.5 / 2) - y / 2) - 0.5


# Signed distances to shapes within the unit circle, f32[...] -> f32[...], negative inside, in the order of KINDS.
DISTANCES = (
    lambda x, y: np.hypot(x, y) - 1,
    lambda x, y: _box(x, y, 0.5**0.5, 0.5**0.5),
    _triangle,
    lambda x, y: np.minimum(_box(x, y, 0.95, 0.3), _box(x, y, 0.3, 0.95)),
    lambda x, y: np.abs(np.hypot(x, y) - 0.75) - 0.25,
)


def coverage(scene: dict[str, np.ndarray], which: int, side: int) -> np.ndarray:
    """The share of each pixel that an object covers, from its signed distance: a ramp one pixel wide at the edge."""
    # -> f32[B, side, side]
    at = (np.arange(side, dtype=np.float32) + 0.5) / side
    covered = np.zeros((len(scene["kind"]), side, side), np.float32)
    for kind, distance in enumerate(DISTANCES):
        (rows,) = np.nonzero(scene["kind"][:, which] == kind)
        centre, radius = scene["centre"][rows, which], scene["radius"][rows, which, None, None]
        cos, sin = (f(scene["angle"][rows, which, None, None]) for f in (np.cos, np.sin))
        x, y = at[None, None, :] - centre[:, 0, None, None], at[None, :, None] - centre[:, 1, None, None]
        inside = -distance((cos * x + sin * y) / radius, (cos * y - sin * x) / radius) * radius
        covered[rows] = np.clip(0.5 + side * inside, 0, 1)
    return covered


def draw(scene: dict[str, np.ndarray], side: int) -> np.ndarray:  # -> u8[B, side, side, 3]
    palette = np.array(list(COLOURS.values()), np.float32)
    image = np.broadcast_to(palette[scene["background"], None, None], (len(scene["kind"]), side, side, 3))
    for which in range(scene["kind"].shape[1]):
        covered = coverage(scene, which, side)[..., None]
        image = image + covered * (palette[scene["colour"][:, which], None, None] - image)
    return np.rint(image).astype(np.uint8)


def annotations(scene: dict[str, np.ndarray], side: int) -> dict[str, np.ndarray]:
    """The scene and its segmentation: `mask` u8[B, side, side] is 0 for background, from 1 on for the objects."""
    return {**scene, "mask": segmentation(scene, side)}


def segmentation(scene: dict[str, np.ndarray], side: int) -> np.ndarray:  # -> u8[B, side, side]
    return sum((i + 1) * (coverage(scene, i, side) > 0.5).astype(np.uint8) for i in range(scene["kind"].shape[1]))


def captions(scene: dict[str, np.ndarray]) -> list[str]:
    """Such as "a large red circle above a small blue cross on a grey background", with a second small object "a large
    red circle above a small blue cross and left of a small green ring on ...", and of equal objects "three small red
    circles on ..."."""
    scene = scene_layout.with_slots(scene)
    colours, texts = list(COLOURS), []
    for number, kind, colour, background, relation in zip(
        scene_layout.counted(scene).tolist(),
        *(scene[key].tolist() for key in ("kind", "colour", "background", "relation")),
        strict=True,
    ):
        small = [
            f" {RELATIONS[r]} a small {colours[c]} {KINDS[k]}"
            for r, c, k in zip(relation, colour[1:], kind[1:], strict=True)
            if r >= 0
        ]
        shown = f"a large {colours[colour[0]]} {KINDS[kind[0]]}" + " and".join(small)
        if number:
            shown = f"{NUMBERS[number - 2]} small {colours[colour[0]]} {PLURALS[kind[0]]}"
        texts.append(f"{shown} on a {colours[background]} background")
    return texts


def _read(at: Callable, side: int, segmented: bool, positions: np.ndarray) -> dict[str, np.ndarray]:
    scene = at(positions)  # i64[B] -> u8[B, side, side, 3], i32[B]
    segments = {"map": segmentation(scene, side)} if segmented else {}
    return {"image": draw(scene, side), "label": scene["kind"][:, 0], **segments}
