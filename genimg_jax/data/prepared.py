"""TensorFlow Datasets that were prepared in the array_record format, read at random and without TensorFlow."""

import functools
import json
import os
import re
from collections.abc import Mapping, Sequence

import numpy as np

from genimg_jax.data import decode
from genimg_jax.data.types import Options, Stored
from genimg_jax.errors import DataError

VERSION = re.compile(r"[/:]((?:\d+|\*)(?:\.(?:\d+|\*)){2})$")  # mnist:3.0.1, and as folders are called, mnist/3.0.1


def open_prepared(options: Options) -> Stored:
    """All splits of the dataset `name` in `path`, or of the prepared folder `path` itself where `name` is empty.

    Images are decoded as in `folder`. Raises DataError where nothing is prepared, the format allows no random access,
    or there is no image feature; the message holds the command that prepares the dataset.
    """
    import tensorflow_datasets as tfds  # here, because importing it takes half a second

    # TensorFlow Datasets reads the variable when it is imported, which may be too early.
    path = options.path or os.path.expanduser(os.environ.get("TFDS_DATA_DIR", ""))
    name = VERSION.sub(r":\1", options.name)
    place = f" --data_dir={path}" if path else ""
    command = f"tfds build {name or '<name>'} --file_format=array_record{place}"
    try:
        builder = tfds.builder(name, data_dir=path or None) if name else tfds.builder_from_directory(path)
    except tfds.core.DatasetNotFoundError as error:
        raise DataError(f"There is no dataset '{name}', neither in TensorFlow Datasets nor prepared in "
                        f"'{path or 'its default folder'}'.") from error  # fmt: skip
    except Exception as error:
        which = f"'{name}' in '{path or 'its default folder'}'" if name else f"'{path}'"
        reason = str(error).splitlines()[-1] if str(error) else type(error).__name__
        raise DataError(f"{which} is no prepared dataset ({reason}): set data.path to the folder of "
                        f"dataset_info.json, or run: {command}") from error  # fmt: skip
    info = builder.info
    if not info.splits:
        raise DataError(f"'{name}' is not prepared in '{builder.data_dir}': run: {command}")
    if info.file_format is None or info.file_format.value != "array_record":
        stored = info.file_format.value if info.file_format else "an unknown format"
        raise DataError(f"'{builder.data_dir}' is prepared as {stored}, which cannot be read at random: run: {command}")
    features = dict(info.features.items())
    image = next((key for key, feature in features.items() if isinstance(feature, tfds.features.Image)), None)
    if image is None:
        raise DataError(f"'{builder.data_dir}' has the features {', '.join(features)}, and none is an image.")
    label = features.get("label")
    classes = tuple(label.names) if isinstance(label, tfds.features.ClassLabel) else ()
    splits, start = {}, 0
    for name, split in info.splits.items():
        splits[name] = range(start, start + split.num_examples)
        start += split.num_examples
    sizes = {name: [list(split.shard_lengths), split.num_bytes] for name, split in info.splits.items()}
    return Stored(
        splits=splits,
        read=functools.partial(_read, str(builder.data_dir), splits, image, bool(classes), options.pixel_limit),
        classes=classes,
        names=lambda positions: [_name(info.full_name, *_place(splits, position)) for position in positions.tolist()],
        listing=json.dumps([info.full_name, sizes]),
    )


def _place(splits: Mapping[str, range], position: int) -> tuple[str, int]:
    name = next(name for name, span in splits.items() if position in span)
    return name, position - splits[name].start


def _name(dataset: str, split: str, number: int) -> str:
    return f"{dataset}, {split} example {number}"


@functools.cache  # one reader a process: its open files cannot be sent to another
def _records(folder: str, split: str, image: str):
    import tensorflow_datasets as tfds

    undecoded = {image: tfds.decode.SkipDecoding()}  # `decode` decodes, within its limits
    return tfds.builder_from_directory(folder).as_data_source(split=split, decoders=undecoded)


def _read(
    folder: str, splits: Mapping[str, range], image: str, labelled: bool, pixel_limit: int, positions: np.ndarray
) -> dict[str, Sequence[np.ndarray]]:
    # i64[B] -> B of u8[H, W, 1 or 3], i32[B]
    places = [_place(splits, position) for position in positions.tolist()]
    encoded, labels = [None] * len(places), np.full(len(places), -1, np.int32)
    for split in {split for split, _ in places}:
        here = [row for row, (name, _) in enumerate(places) if name == split]
        numbers = [places[row][1] for row in here]
        try:
            records = _records(folder, split, image).__getitems__(numbers)  # many at once: the file is read in order
        except Exception as error:  # a damaged record, or a file that is gone
            which = _name(folder, split, min(numbers)) + (f" to {max(numbers)}" if len(numbers) > 1 else "")
            raise DataError(f"{which} cannot be read: {error}.") from error
        for row, record in zip(here, records, strict=True):
            encoded[row] = record[image]
            labels[row] = record["label"] if labelled else -1
    images = [
        decode.decode(content, _name(folder, *place), pixel_limit)
        for content, place in zip(encoded, places, strict=True)
    ]
    return {"image": images, "label": labels} if labelled else {"image": images}
