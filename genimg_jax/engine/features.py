"""The field `features`, made of the images by a frozen encoder, so that families can be conditioned on it.

The encoder is a trained run, and features are the latents that it encodes an image as; or it is a classifier's file
(.safetensors), and they are those of its penultimate layer. They are standardised by their mean and deviation over the
training images (Bordes et al. 2022 condition a diffusion model on features of a trained network in this way). They are
those of the image as it is stored, never flipped, and depend on that image alone. All features of a source are made
when it is opened, and kept in memory, 4 D bytes an image, even where images are streamed.

A run keeps the hash of the encoder's weights, the mean and the deviation in `features.json`; later commands use the
same encoder or refuse to run.
"""

import functools
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genimg_jax import core, data, progress
from genimg_jax.data import Part, Source, folder, loading, transforms
from genimg_jax.data.source import FEATURES
from genimg_jax.engine import parallel, restore
from genimg_jax.errors import CheckpointError, ConfigError
from genimg_jax.metrics import classifier_file

CHUNK = 128  # images a call; fewer are filled up, so that one program serves all
LEVELS = 256  # of pictures, for an encoder whose record has no levels
CONSTANT = 1e-6  # a feature whose deviation is at most this share of its largest value differs by rounding alone

Record = Mapping[str, Any]
"""The encoder's `workdir`, or its file, `step` (null for a file) and `weights` (a hash); the `levels` of stored images;
and the features' `mean` and `deviation` f64[D]."""


class Encoder(NamedTuple):
    encode: Callable[[np.ndarray], np.ndarray]
    """Stored images u8[CHUNK, H, W, C] -> f32[CHUNK, D], before they are standardised."""
    image_shape: tuple[int, int, int]
    stored_levels: int
    record: dict[str, Any]
    """`workdir`, `step`, `weights`, `levels`."""


def open_source(options: data.Options, split: str | Part, training: Source | None = None) -> Source:
    """`data.open_source`, with the field `features` if `options.features` name its encoder.

    The mean and deviation are those of `training`, an open source of the training images; else those of the file that
    the options name; else those of the training images, which are then opened. Raises `ConfigError` for a run that
    cannot encode the images, and `CheckpointError` if the file is of an encoder with other weights.
    """
    source = data.open_source(options, split, training and training.vocabulary)
    if not options.features.encoder:
        return source
    if FEATURES not in options.fields:
        raise ConfigError("data.features.encoder makes the field 'features', which data.fields does not name; add it.")
    encoder = open_encoder(options, source.stored_levels)
    if (source.spec.image_shape, source.stored_levels) != (encoder.image_shape, encoder.stored_levels):
        raise ConfigError(
            f"data.features.encoder is {options.features.encoder}, trained on images {encoder.image_shape} of "
            f"{encoder.stored_levels} levels, and the data is of {source.spec.image_shape} of {source.stored_levels}; "
            "train an encoder on such images."
        )
    codes = np.concatenate(list(_encoded(encoder, source)))
    record = training.encoder if training else _kept(options)
    if not training:
        _check(record, encoder, options.features.statistics)
    if record is None and split == Part.TRAIN:
        record = {**encoder.record, **_statistics(codes)}
    elif record is None:
        record = open_source(options, Part.TRAIN).encoder
    vectors = standardized(codes, record)
    fields = {**source.spec.fields, FEATURES: core.Field(vectors.shape[1:])}
    read = functools.partial(_read, source.read, vectors)
    return source._replace(spec=source.spec._replace(fields=fields), read=read, encoder=record)


def of_pictures(options: data.Options, path: str, pixel_limit: int) -> np.ndarray:  # -> f32[N, D]
    """The features of an image file, or of every image file below a folder, by name.

    Images of another size are cropped and resized as `data.size` does. Raises `DataError` for a file that is no image,
    and `CheckpointError` as `open_source` does.
    """
    record = _kept(options)
    encoder = open_encoder(options, record.get("levels", LEVELS) if record else LEVELS)
    _check(record, encoder, options.features.statistics)
    pictures = folder.pictures(path, encoder.image_shape, encoder.stored_levels, pixel_limit)
    image = np.stack([picture for _, picture in pictures])
    rows = np.resize(np.arange(len(image)), -(-len(image) // CHUNK) * CHUNK)  # the last chunk is filled up
    codes = np.concatenate([encoder.encode(image[part]) for part in rows.reshape(-1, CHUNK)])
    return standardized(codes[: len(image)], record)


def standardized(codes: np.ndarray, record: Record) -> np.ndarray:  # f32[N, D] -> f32[N, D]
    return ((codes - np.array(record["mean"])) / np.array(record["deviation"])).astype(np.float32)


def open_encoder(options: data.Options, levels: int) -> Encoder:
    """The frozen encoder that `options.features` name, of images stored in `levels`. Raises `ConfigError` for a run
    that encodes no images by themselves as vectors, and `CheckpointError` for a file that is no classifier."""
    path = pathlib.Path(options.features.encoder)
    return _of_classifier(path, levels) if path.suffix == ".safetensors" else _of_run(options)


def _of_classifier(path: pathlib.Path, levels: int) -> Encoder:
    (network, _), kept = classifier_file.load(path, "name another, such as one of genimg_jax/evaluation/weights")
    record = {"workdir": str(path), "step": None, "weights": kept["weights"]}

    def encode(parameters: core.Tree, batch: core.Batch, key: jax.Array) -> jax.Array:
        return network.apply(parameters, batch["image"])

    return _encoder(encode, network.parameters, data.Options(), tuple(kept["image_shape"]), levels, record)


def _of_run(options: data.Options) -> Encoder:
    workdir, alone = pathlib.Path(options.features.encoder), jax.process_count() == 1
    devices = parallel.Options(devices=int(alone))  # several processes read the weights together
    first, record = restore.open_stage(workdir, options.features.checkpoint, devices)
    family, config = first.program.family, first.program.config
    space = next((s for s in family.latents if s.encode and not s.spec.levels), None)
    if space is None or family.conditions:
        lacks = f"is conditioned on {', '.join(family.conditions)}" if space else "has no latents that are vectors"
        raise ConfigError(
            f"data.features.encoder is {workdir}, a run of {config.family}, which {lacks}; train an encoder of images "
            "alone, such as configs/autoencoder_digits.py."
        )
    weights, levels = jax.device_get(first.weights), first.dataset["stored_levels"]
    return _encoder(space.encode, weights, config.data, first.program.spec.image_shape, levels, record)


def _encoder(
    encode: Callable[[Any, core.Batch, jax.Array], jax.Array],
    weights: Any,
    options: data.Options,
    image_shape: tuple[int, int, int],
    levels: int,
    record: dict[str, Any],
) -> Encoder:
    """`encode`: weights, prepared images, key -> f32[B, ...]. Random numbers, if any, are the same for every image."""

    @jax.jit
    def compiled(weights: Any, image: jax.Array) -> jax.Array:  # u8[B, H, W, C] -> f32[B, D]
        raw, key = {"image": image, "index": jnp.zeros(len(image), jnp.int32)}, core.stream(0, "encode")
        batch = transforms.prepare(raw, key, options, levels, training=False)
        return encode(weights, batch, key).reshape(len(image), -1)

    def encode_stored(image: np.ndarray) -> np.ndarray:
        return np.asarray(compiled(weights, image))

    return Encoder(encode_stored, image_shape, levels, {**record, "levels": levels})


def _encoded(encoder: Encoder, source: Source) -> Iterator[np.ndarray]:  # -> f32[n, D] ...
    with progress.bar("encoding", total=source.size, unit="image", leave=False) as bar:
        for batch in loading.evaluation_batches(source._replace(domains={}), CHUNK):
            codes = encoder.encode(batch["image"])[batch["valid"]]
            bar.update(len(codes))
            yield codes


def _read(read: Callable, features: np.ndarray, indices: np.ndarray) -> dict[str, np.ndarray]:  # i64[B] -> [B, ...]
    return {**read(indices), FEATURES: features[indices]}


def _statistics(codes: np.ndarray) -> dict[str, list[float]]:  # f32[N, D] -> {"mean": [D], "deviation": [D]}
    """If a feature has the same value for all images, that value is exactly its mean, and its deviation is 1."""
    values = codes.astype(np.float64)  # in which sums of equal float32 values are exact
    deviation = values.std(0)
    differs = deviation > CONSTANT * np.abs(values).max(0)
    return {"mean": values.mean(0).tolist(), "deviation": np.where(differs, deviation, 1.0).tolist()}


def _kept(options: data.Options) -> Record | None:
    """The record in the file that the options name, if any."""
    path = options.features.statistics
    if not path:
        return None
    try:
        record = json.loads(pathlib.Path(path).read_text())
        if missing := {"workdir", "step", "weights", "mean", "deviation"} - record.keys():
            raise KeyError(*missing)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"data.features.statistics is {path}, no {restore.FEATURES_FILE} of a run.") from error
    return record


def _check(record: Record | None, encoder: Encoder, path: str) -> None:
    """Raises `CheckpointError` if the record of a file, if any, is not of this encoder."""
    if not record or record["weights"] == encoder.record["weights"]:
        return
    was, now = (
        each["workdir"] + (f" at step {each['step']}" if each["step"] is not None else "")
        for each in (record, encoder.record)
    )
    checkpoint = f" and --config.data.features.checkpoint={record['step']}" if record["step"] is not None else ""
    raise CheckpointError(
        f"the features of {path} are those of {was}, and {now} has other weights; name the one with "
        f"--config.data.features.encoder{checkpoint}."
    )
