"""Opens one split of a source on disk: chooses examples, makes their rows, keeps them in memory if they fit."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from genimg_jax import files
from genimg_jax.data import classes, identity, rows, text
from genimg_jax.data.digits import open_digits
from genimg_jax.data.folder import open_folder
from genimg_jax.data.npz import open_npz
from genimg_jax.data.pairs import open_domains, open_pairs
from genimg_jax.data.prepared import open_prepared
from genimg_jax.data.rows import Recipe
from genimg_jax.data.shapes import open_shapes
from genimg_jax.data.splits import Part, part, select
from genimg_jax.data.types import Options, Source, Stored
from genimg_jax.errors import ConfigError, DataError
from genimg_jax.options import nearest

if TYPE_CHECKING:
    from tokenizers import Tokenizer

KINDS: dict[str, Callable[[Options], Stored]] = {
    "digits": open_digits,
    "shapes": open_shapes,
    "tfds": open_prepared,
    "folder": open_folder,
    "npz": open_npz,
    "pairs": open_pairs,
    "domains": open_domains,
}
SHOWN = 5  # names in a message
TOKENS = "tokens"  # the field that captions become
FEATURES = "features"  # the field that an encoder makes
SOURCE = "source"  # the field that an observation makes


def open_source(options: Options, split: str | Part, vocabulary: "Tokenizer | None" = None) -> Source:
    """Open a split such as `train[:90%]`: in memory if it fits `options.memory_mib`, otherwise to be streamed.

    A `Part` opens the split that the options name for it, after a check that it shares no image with the other two.
    Captions are encoded with the `vocabulary` of another split, if given; otherwise a vocabulary is trained.

    Raises DataError if there is nothing to read, if images differ in shape and the options do not make them alike, or
    if an image cannot be read; for a streamed source that last error comes with the batch that holds the image. Raises
    ConfigError for a field that the source does not have. The field `features` is left out if the options name its
    encoder: `engine.features` adds it. The field `source` is not read if `options.observation` makes it of the image:
    `transforms.prepare` adds it.
    """
    if options.observation.kind:
        return _with_observation(options, split, vocabulary)
    if options.features.encoder:
        options = dataclasses.replace(options, fields=tuple(name for name in options.fields if name != FEATURES))
    stored = KINDS[options.source](options)
    _check_fields(options, stored)
    vocabulary = (vocabulary or _vocabulary(options, stored)) if TOKENS in options.fields else None
    recipe, split_size, shown = _choose(stored, options, split, vocabulary)
    domains = {name: _choose_domain(stored, name, options, split) for name in options.fields if name in stored.domains}
    needed = rows.size(recipe) + sum(rows.size(domain) for domain, *_ in domains.values())
    in_memory = needed <= options.memory_mib << 20
    return _source(recipe, split_size, shown, in_memory, {n: _source(*d, in_memory, {}) for n, d in domains.items()})


def _with_observation(options: Options, split: str | Part, vocabulary: "Tokenizer | None") -> Source:
    """`open_source` with the field `source` in the spec."""
    import jax  # here, as in `_source`

    from genimg_jax import core
    from genimg_jax.observations import observing

    if SOURCE not in options.fields:
        raise ConfigError("data.observation makes the field 'source', which data.fields does not name; add it.")
    others = tuple(name for name in options.fields if name != SOURCE)
    plain = dataclasses.replace(options, fields=others, observation=type(options.observation)())
    source = open_source(plain, split, vocabulary)
    image, keys = np.zeros((1, *source.spec.image_shape), np.float32), jax.random.split(jax.random.key(0), 1)
    made_of = functools.partial(observing.random_source, options.observation)
    field = core.Field(jax.eval_shape(made_of, image, keys).shape[1:])
    return source._replace(spec=source.spec._replace(fields={**source.spec.fields, SOURCE: field}))


def _check_fields(options: Options, stored: Stored) -> None:
    available = [*stored.fields, *stored.domains, *([TOKENS] if stored.captions else [])]
    for name in options.fields:
        if name not in available:
            listed = f"This {options.source} source has {', '.join(available) or 'no fields'}."
            raise ConfigError(f"data.fields names {name!r}{nearest(name, available)} {listed}")
    if options.flip and TOKENS in options.fields:
        raise ConfigError(
            "data.flip mirrors images, and words such as 'left of' in their captions would then be wrong: set "
            f"data.flip=False, or leave {TOKENS!r} out of data.fields."
        )


def _vocabulary(options: Options, stored: Stored) -> "Tokenizer":
    """Loads the vocabulary that the options name, or trains one on the captions of the training examples."""
    if options.captions.vocabulary:
        return text.load(options.captions.vocabulary)
    positions, _ = part(options, Part.TRAIN, stored.splits, stored.labels)
    captions = stored.captions(_limited(positions, stored, options.limit))
    return text.train(captions, options.captions.tokens, options.captions.vocabulary_size)


def _choose(
    stored: Stored, options: Options, split: str | Part, vocabulary: "Tokenizer | None"
) -> tuple[Recipe, int, str]:
    """The recipe of a split, the size of the whole split, and its name in reports."""
    whole = select(options.train_split, stored.splits) if split == Part.TRAIN else None
    if isinstance(split, Part):
        positions, split = part(options, split, stored.splits, stored.labels)
    else:
        positions = select(split, stored.splits)
    split_size = len(positions if whole is None else whole)
    recipe = Recipe(stored, _limited(positions, stored, options.limit), options, {}, vocabulary)
    return recipe._replace(first=rows.example(recipe, 0)), split_size, split


def _choose_domain(stored: Stored, name: str, options: Options, split: str | Part) -> tuple[Recipe, int, str]:
    """`_choose` for another domain, whose images keep their channels and levels."""
    options = dataclasses.replace(options, fields=(), channels=0, binarize="none")
    try:
        return _choose(stored.domains[name], options, split, None)
    except DataError as error:
        raise DataError(f"The images of the field {name!r}: {error}") from error


def _source(recipe: Recipe, split_size: int, split: str, in_memory: bool, domains: Mapping[str, Source]) -> Source:
    from genimg_jax import core  # here, because it loads JAX, which naming the options does not need

    stored, positions, options, first = recipe.stored, recipe.positions, recipe.options, recipe.first
    levels = stored.levels if options.binarize in ("none", "dynamic") else 2
    spec = core.Spec(
        image_shape=first["image"].shape,
        num_classes=len(stored.classes),
        levels=levels if options.binarize == "none" else 2,
        fields={name: core.Field(*_described(recipe, name, domains)) for name in options.fields},
    )
    # The listing covers how images lie on disk and how they are processed.
    processing = repr((spec.image_shape, options.binarize, stored.levels))
    if options.fields:
        vocabulary = recipe.vocabulary and text.digest(recipe.vocabulary)
        processing += repr((spec.fields, vocabulary, [domain.listing for domain in domains.values()]))
    listing = files.digest([f"{stored.listing} {processing}", positions.tobytes()])
    labels = None if stored.labels is None else stored.labels[positions]
    if in_memory:
        arrays = rows.load(recipe)
        read, labels = functools.partial(_gather, arrays), arrays.get("label")
        hashes = identity.hashes(spec.image_shape, [arrays]) | {name: d.fingerprint for name, d in domains.items()}
    else:
        read, hashes = functools.partial(_read_on, recipe), {"image": listing}
    _report(recipe, 0)

    def described(describe: Callable | None) -> Callable | None:
        return describe and (lambda indices: describe(positions[[rows.chosen(recipe, i) for i in indices.tolist()]]))

    return Source(
        spec=spec,
        size=len(positions),
        split_size=split_size,
        fingerprint=hashes.pop("image"),
        field_hashes=hashes,
        listing=listing,
        read=read,
        domains=domains,
        stored_levels=levels,
        in_memory=in_memory,
        classes=stored.classes,
        class_counts=_counts(labels, len(stored.classes)),
        names=described(stored.names),
        captions=described(stored.captions),
        vocabulary=recipe.vocabulary,
        annotations=described(stored.annotations),
        held_out=stored.held_out,
        skipped=tuple(_skipped(recipe, 0)),
        workers=options.workers,
        split=split,
    )


def _described(recipe: Recipe, name: str, domains: Mapping[str, Source]) -> tuple[tuple[int, ...], int, bool]:
    """The shape of a field, the number of values of its integers, and whether it is paired with the images."""
    if name in domains:
        return domains[name].spec.image_shape, 0, False
    size = text.size(recipe.vocabulary) if name == TOKENS else recipe.stored.fields[name]
    return recipe.first[name].shape, size, True


def _limited(positions: np.ndarray, stored: Stored, limit: int) -> np.ndarray:  # i64[N] -> i64[min(N, limit)]
    if not 0 < limit < len(positions):
        return positions
    unknown = np.zeros(len(positions), np.int32)
    return positions[classes.subset(limit, unknown if stored.labels is None else stored.labels[positions])]


def _counts(labels: np.ndarray | None, count: int) -> tuple[int, ...] | None:
    return None if labels is None or not count else tuple(np.bincount(labels[labels >= 0], minlength=count).tolist())


def _gather(rows: dict[str, np.ndarray], indices: np.ndarray) -> dict[str, np.ndarray]:  # i64[B] -> [B, ...]
    return {name: array.take(indices, axis=0) for name, array in rows.items()}


def _read_on(recipe: Recipe, indices: np.ndarray) -> dict[str, np.ndarray]:  # i64[B] -> {name: [B, ...]}
    """Rows of a streamed source. Each process that reads reports a skipped image once."""
    num_reported = len(recipe.substitutes)
    examples = rows.read(recipe, indices)
    _report(recipe, num_reported)
    return examples


def _report(recipe: Recipe, num_reported: int) -> None:
    """Prints to stderr which images were skipped, without the first `num_reported`."""
    if names := _skipped(recipe, num_reported):
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        print(f"data.bad_images=skip: {len(names)} of {len(recipe.positions)} images cannot be used, and the next one "
              f"stands in for each: {', '.join(names[:SHOWN])}{more}", file=sys.stderr)  # fmt: skip


def _skipped(recipe: Recipe, start: int) -> list[str]:
    return recipe.stored.names(recipe.positions[list(recipe.substitutes)[start:]])
