"""Labels of generated images and of a reference: the shares of requested classes, and the numbering of classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from genimg_jax.data import Source
from genimg_jax.errors import ConfigError

if TYPE_CHECKING:
    from genimg_jax.evaluation.image_sets import ImageSet

ORDER = 0xC1A55E5  # separates the order in which classes are asked for from other draws

SHARES_ASKED = "classes asked for"  # in a protocol


def shares_of(labels: np.ndarray, count: int, seed: int) -> np.ndarray:  # i32[M] -> i32[count]
    """Classes for `count` images in the shares that they have in `labels`, to within an image of each, shuffled."""
    spread = np.sort(labels)[(2 * np.arange(count) + 1) * len(labels) // (2 * count)]
    return np.random.default_rng([ORDER, seed]).permutation(spread)


def to_ask(names: tuple[str, ...], reference: ImageSet, count: int, seed: int) -> np.ndarray:  # -> i32[count]
    """The class to request for each of `count` images, an index into `names`: in the shares of the reference's images,
    or each class in turn where those have no labels or other classes."""
    places = None if reference.labels is None else _numbers(reference.classes, names)
    if places is None:
        return (np.arange(count) % len(names)).astype(np.int32)
    return np.array(places, np.int32)[shares_of(reference.labels, count, seed)]


def labelled(images: ImageSet, labels: np.ndarray, classes: tuple[str, ...], like: ImageSet) -> ImageSet:
    """Generated images with labels, which index `classes`, renumbered to the classes of `like`. `asked` says in which
    shares those were requested."""
    images = renumbered(images._replace(labels=labels, classes=classes), like)
    if images.labels is None or like.labels is None:
        return images
    ours, theirs = (np.bincount(x, minlength=len(like.classes)) for x in (images.labels, like.labels))
    if np.abs(ours - theirs * (len(images.labels) / len(like.labels))).max() < 1:
        return images._replace(asked={SHARES_ASKED: "as held out"})
    return images._replace(asked={SHARES_ASKED: "equally often" if np.ptp(ours) <= 1 else "in other shares"})


def renumbered(images: ImageSet, like: ImageSet) -> ImageSet:
    """The images with their labels renumbered to the classes of `like`. If `like` lacks one of their classes, they lose
    their labels, and `unlabelled` says why."""
    if images.labels is None:
        return images
    numbers = _numbers(images.classes, like.classes)
    if numbers is None:
        unknown = [name for name in images.classes if name not in like.classes]
        reason = f"the images are of the classes {_some(unknown)}, which the reference lacks"
        return images._replace(labels=None, classes=like.classes, unlabelled=reason)
    return images._replace(labels=np.array(numbers, np.int32)[images.labels], classes=like.classes)


def _numbers(classes: tuple[str, ...], like: tuple[str, ...]) -> list[int] | None:
    """The index of each of `classes` in `like`, or None where one is missing.

    npz archives and many folders name classes by numbers. If `like` has no such names, the numbers are the indices."""
    if set(classes) <= set(like):
        return [like.index(name) for name in classes]
    if any(name.isdecimal() for name in like) or not all(name.isdecimal() for name in classes):
        return None
    numbers = [int(name) for name in classes]
    return numbers if max(numbers) < len(like) else None


def check_shape(what: str, ours: tuple[int, ...], theirs: tuple[int, ...]) -> None:
    """Raises `ConfigError` where the `what` images are of another shape [H, W, C] than the reference's."""
    if ours != theirs:
        ours, theirs = (" x ".join(map(str, shape)) for shape in (ours, theirs))
        raise ConfigError(
            f"the {what} images are {ours} and the reference's {theirs}; set --config.data.size and "
            "--config.data.channels to make images that are read alike."
        )


def check_alike(train: Source, reference: Source) -> None:
    """Raises `ConfigError` where training and reference images differ in size, channels, levels or the numbering of
    classes."""
    check_shape("training", train.spec.image_shape, reference.spec.image_shape)
    if train.spec.levels != reference.spec.levels:
        raise ConfigError(
            f"the training images have {train.spec.levels} levels and the reference's {reference.spec.levels}: give "
            "sources of the same data."
        )
    if not train.classes or not reference.classes:
        return
    if _numbers(train.classes, reference.classes) == list(range(len(reference.classes))):
        return
    more = [name for name in train.classes if name not in reference.classes]
    fewer = [name for name in reference.classes if name not in train.classes]
    differences = [f"the training images alone have {_some(more)}"] * bool(more)
    differences += [f"the reference alone has {_some(fewer)}"] * bool(fewer)
    raise ConfigError(
        "the training images and the reference have other classes: "
        f"{' and '.join(differences) or 'their order differs'}; give sources of the same classes."
    )


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
