"""Scenes are read back from the pixels of images, as the source `shapes` describes those that it draws.

A pixel of a scene is the background or a blend of it with one object's colour, for objects never touch. The share of
that colour is the object's coverage, to the rounding of 8 bits: its sum tells the object's size, its mean the centre,
and the kind is the one whose drawing explains it best. Any other image is read as the scene that is nearest to it.
"""

import math

import numpy as np
import scipy.ndimage

from genimg_jax import progress
from genimg_jax.data import shapes
from genimg_jax.errors import DataError

PALETTE = np.array(list(shapes.COLOURS.values()), np.float32)
AREAS = np.array([math.pi, 2, 27**0.5 / 4, 1.92, 0.75 * math.pi], np.float32)  # of KINDS, in a circle of radius 1
FAINT = 0.2  # of a pixel: a smaller share, not beside a larger one, is an inexact background and no object's edge
LEAST = 0.006  # of the image's pixels that an object covers: half of the smallest ones
ANGLES = np.linspace(-math.pi / 6, math.pi / 6, 9)  # no object is turned by more
TURNED = [shapes.KINDS.index(kind) for kind in ("square", "triangle", "cross")]  # kinds that an angle changes
FINE = np.linspace(-math.pi / 48, math.pi / 48, 5)
SCALES = np.linspace(0.94, 1.06, 7)  # around the radius that the area tells, as if corners were drawn sharp
LEAST_SIDE = (
    16  # in 8x8 pixels a third of the small objects' kinds are misread; in 16x16 one of 1,000 among three objects
)
LARGE = 0.17  # radii of small objects are at most 0.14, of large ones at least 0.19
MOST = 5  # objects that are read of an image: one more than the source draws, to be seen as one too many
CHUNK = 64  # images, and then objects, at a time


def read(images: np.ndarray) -> dict[str, np.ndarray]:
    """The scenes that images show, as `shapes.scenes` describes those of at most `MOST` objects, with `mask`
    u8[B, S, S] as in its annotations. Of the small objects the larger ones come first.

    `residual` f32[B] is the root mean square difference, in levels of 255, between an image and the drawing of what
    was read: at most a few levels for a scene. Colour and kind of objects that are not there are -1. Raises `DataError`
    for images that are not square and coloured, or so small that a small object's kind cannot be told.
    """  # u8[B, S, S, 3] -> {name: [B, ...]}
    square = images.ndim == 4 and images.shape[1] == images.shape[2] >= LEAST_SIDE
    if images.dtype != np.uint8 or not square or images.shape[3] != 3:
        raise DataError(
            f"scenes are square u8 images of 3 channels, from {LEAST_SIDE}x{LEAST_SIDE} on; found {images.dtype} of "
            f"shape {images.shape}."
        )
    parts = []
    with progress.bar("scenes", total=len(images), unit="image", leave=False) as bar:
        for start in range(0, len(images), CHUNK):
            part = images[start : start + CHUNK]
            parts.append(_read(part))
            bar.update(len(part))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _read(images: np.ndarray) -> dict[str, np.ndarray]:
    count, side = images.shape[:2]
    background, share = _coverages(images.reshape(count, -1, 3).astype(np.float32))
    image, colour, share = _components(share.reshape(count, -1, side, side))
    parts = [_objects(share[start : start + CHUNK]) for start in range(0, max(1, len(share)), CHUNK)]
    objects = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    objects |= {"colour": colour, "share": share}
    # The larger one comes first.
    order = np.lexsort((-objects["radius"], image))
    image = image[order]
    place = image, _ranks(image)
    scene = {}
    for name, x in objects.items():
        scene[name] = np.full((count, MOST, *x.shape[1:]), -1 if x.dtype.kind == "i" else 0, x.dtype)
        scene[name][place] = x[order]
    share = scene.pop("share")
    scene["background"] = background
    scene["relation"] = _relations(scene)
    difference = shapes.draw(scene, side).astype(np.float32) - images
    scene["residual"] = np.sqrt(np.mean(np.square(difference), axis=(1, 2, 3)))
    scene["mask"] = np.where(share.max(axis=1) > 0.5, 1 + share.argmax(axis=1), 0).astype(np.uint8)
    return scene


def _coverages(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The background, and how much of each pixel every colour covers."""
    # f32[B, P, 3] -> i32[B], f32[B, colours, P]
    nearest = np.square(pixels[:, :, None] - PALETTE).sum(axis=3).argmin(axis=2)
    backgrounds = range(shapes.OBJECT_COLOURS, len(PALETTE))
    background = shapes.OBJECT_COLOURS + np.stack([(nearest == b).sum(axis=1) for b in backgrounds]).argmax(axis=0)
    offset = pixels - PALETTE[background][:, None]  # [B, P, 3]
    direction = PALETTE[: shapes.OBJECT_COLOURS] - PALETTE[background][:, None]  # [B, colours, 3]
    share = np.einsum("bpc,bkc->bkp", offset, direction) / np.square(direction).sum(axis=2)[:, :, None]
    share = np.clip(share, 0, 1)
    error = np.square(offset[:, None] - share[..., None] * direction[:, :, None]).sum(axis=3)
    covered = np.where((error == error.min(axis=1, keepdims=True)) & (share >= FAINT), share, 0).sum(axis=2)
    # A colour that is not there would take its share of the edges of others.
    error[covered < LEAST * pixels.shape[1]] = np.inf
    share = np.where(np.arange(share.shape[1])[:, None] == error.argmin(axis=1)[:, None], share, 0)
    return background.astype(np.int32), share.astype(np.float32)


def _components(share: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The connected parts of each colour that are large enough for an object, the `MOST` largest of an image."""
    # f32[B, colours, S, S] -> image i64[N] in ascending order, colour i32[N], share f32[N, S, S]
    image, colour = np.nonzero(share.any(axis=(2, 3)))
    share, pixels = share[image, colour], math.prod(share.shape[2:])
    touching = np.zeros((3, 3, 3), bool)
    touching[1] = True  # within an image, corners included
    part, count = scipy.ndimage.label(share >= FAINT, touching)
    part = scipy.ndimage.maximum_filter(part, (1, 3, 3))
    area = np.bincount(part.ravel(), share.ravel(), count + 1) / pixels
    row = np.zeros(count + 1, np.int64)  # of `share`
    row[part.ravel()] = np.repeat(np.arange(len(share)), pixels)
    chosen = 1 + np.lexsort((-area[1:], image[row[1:]]))
    chosen = chosen[area[chosen] >= LEAST]
    chosen = chosen[_ranks(image[row[chosen]]) < MOST]
    row = row[chosen]
    return image[row], colour[row].astype(np.int32), np.where(part[row] == chosen[:, None, None], share[row], 0)


def _ranks(image: np.ndarray) -> np.ndarray:  # i64[N] in ascending order -> i64[N]
    """The place of each object among those of its image."""
    return np.arange(len(image)) - np.searchsorted(image, image)


def _relations(scene: dict[str, np.ndarray]) -> np.ndarray:
    """The relation of the first object to each other one; none among equal small ones."""  # -> i32[B, MOST - 1]
    x, y = np.moveaxis(scene["centre"][:, 1:] - scene["centre"][:, :1], 2, 0)
    turn = np.rint(np.arctan2(-y, x) / (math.pi / 2)).astype(np.int32) % 4
    present = scene["kind"] >= 0
    equal = (scene["kind"] == scene["kind"][:, :1]) & (scene["colour"] == scene["colour"][:, :1])
    equal &= scene["radius"] < LARGE
    related = present[:, 1:] & ~(equal | ~present).all(axis=1, keepdims=True)
    return np.where(related, turn, -1).astype(np.int32)


def _objects(share: np.ndarray) -> dict[str, np.ndarray]:
    """Kind, centre, radius and angle of the object that covers these shares of pixels."""
    # f32[N, S, S] -> {name: [N, ...]}
    at = (np.arange(share.shape[1], dtype=np.float32) + 0.5) / share.shape[1]
    total = share.sum(axis=(1, 2))
    centre = np.stack([(share.sum(axis=1) * at).sum(axis=1), (share.sum(axis=2) * at).sum(axis=1)], 1) / total[:, None]
    area = share.mean(axis=(1, 2))
    coarse = [(kind, angle) for kind in range(len(AREAS)) for angle in (ANGLES if kind in TURNED else [0.0])]
    kinds, angles = (np.broadcast_to(np.array(x), (len(share), len(coarse))) for x in zip(*coarse, strict=True))
    kind, radius, angle = _best(share, centre, kinds, np.sqrt(area[:, None] / AREAS[kinds]), angles)
    turns, scales = (x.ravel() for x in np.meshgrid(FINE, SCALES))
    kinds = np.broadcast_to(kind[:, None], (len(share), len(turns)))
    kind, radius, angle = _best(share, centre, kinds, radius[:, None] * scales, angle[:, None] + turns)
    return {
        "kind": kind.astype(np.int32),
        "centre": centre.astype(np.float32),
        "radius": radius.astype(np.float32),
        "angle": angle.astype(np.float32),
    }


def _best(share: np.ndarray, centre: np.ndarray, kind: np.ndarray, radius: np.ndarray, angle: np.ndarray):
    """The candidate, of N for each image, whose drawing covers the most similar pixels."""
    # f32[B, S, S], f32[B, 2], [B, N] x 3 -> [B] x 3
    images, candidates = kind.shape

    def flat(x: np.ndarray) -> np.ndarray:  # [B, N, ...] -> [B N, 1, ...]
        return x.reshape(images * candidates, 1, *x.shape[2:]).astype(np.float32)

    scene = {"kind": flat(kind), "radius": flat(radius), "angle": flat(angle)}
    scene["centre"] = flat(np.repeat(centre[:, None], candidates, axis=1))
    coverage = shapes.coverage(scene, 0, share.shape[1]).reshape(images, candidates, *share.shape[1:])
    chosen = np.square(coverage - share[:, None]).sum(axis=(2, 3)).argmin(axis=1)
    return tuple(x[np.arange(images), chosen] for x in (kind, radius, angle))
