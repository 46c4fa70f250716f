"""Sources of images as a command line names them."""

import dataclasses
import os
import pathlib
import re
from typing import NamedTuple

from genimg_jax import data
from genimg_jax.data import Source
from genimg_jax.data.folder import ARCHIVE
from genimg_jax.data.source import KINDS
from genimg_jax.data.text import with_vocabulary
from genimg_jax.engine import config as configs
from genimg_jax.engine import config_files
from genimg_jax.errors import ConfigError, DataError
from genimg_jax.options import absolute

TFDS = re.compile(r"([^:]*(?::[\d*]+(?:\.[\d*]+){2})?)(?::(.*))?")  # NAME or NAME:VERSION, and :SPLIT
PREPARED = "dataset_info.json"


class Named(NamedTuple):
    """A source as a command line names it, resolved to options."""

    options: data.Options
    split: str
    train_split: str | None = None
    """The training split of a run; None for other sources."""


def named(text: str, options: data.Options, flag: str, split: str = "test") -> Named:
    """`tfds:NAME:SPLIT`, `digits:SPLIT`, `shapes:SPLIT`, or a folder, npz file or run directory, each with `:SPLIT` or
    without it. The default is `split`, "test" or "train"; for a run, the split that it held out or trained on. A source
    with a single split and no `test` gives that split; `train` has no substitute. NAME may have a version, as in
    mnist:3.0.1; a folder may be one that `genimg sample` wrote, or that of a prepared dataset.

    `options` say how images are read; a run directory's own replace them. Raises `ConfigError` naming `flag`.
    """
    options = data.without_fields(options)  # they belong to the source that the options were written for
    kind, _, rest = text.partition(":")
    if kind == "tfds":
        name, named_split = TFDS.fullmatch(rest).groups()
        path = "" if options.source in ("folder", "npz", "pairs", "domains") else options.path
        return Named(dataclasses.replace(options, source=kind, name=name, path=path), named_split or split)
    if kind in ("digits", "shapes"):
        return Named(dataclasses.replace(options, source=kind, name=""), rest or split)
    path, named_split = place(text)
    if path is None:
        raise ConfigError(
            f"{flag} {text}: there is no such folder, npz file or run directory, and it is none of tfds:NAME:SPLIT, "
            "digits:SPLIT and shapes:SPLIT."
        )
    if run_options := of_run(text):
        return Named(
            run_options, named_split or {"test": data.Part.EVALUATE, "train": data.Part.TRAIN}[split], data.Part.TRAIN
        )
    if (path / ARCHIVE).is_file():
        path /= ARCHIVE
    versions = list(path.glob(f"*/{PREPARED}"))
    if len(versions) == 1:
        path = versions[0].parent
    source = "tfds" if (path / PREPARED).is_file() else "folder" if path.is_dir() else "npz"
    options = dataclasses.replace(options, source=source, name="", path=str(path))
    splits = _naming_flag(flag, lambda: list(KINDS[options.source](options).splits))
    if not named_split and split not in splits:
        if split == "train" or len(splits) > 1:
            raise ConfigError(f"{flag} {text} has no split {split}; name one as {text}:SPLIT, of {', '.join(splits)}.")
        named_split = splits[0]
    return Named(options, named_split or split)


def of_run(text: str) -> data.Options | None:
    """How a run's images are read, where `text` names a run directory."""
    path, _ = place(text)
    if path is None or not (path / "config.json").is_file():
        return None
    return with_vocabulary(configs.resolve(config_files.of_run(path)).data, path)


def place(text: str) -> tuple[pathlib.Path | None, str]:
    """The longest path in `text` that exists, or None, and the split after it."""
    colons = [i for i, character in enumerate(text) if character == ":"]
    for end in [len(text), *reversed(colons)]:
        path = pathlib.Path(absolute(text[:end]))
        if os.path.exists(path):  # False, not an error, where a name is too long or a folder closed
            return path, text[end + 1 :]
    return None, ""


def open_named(source: Named, flag: str) -> Source:
    """The source. Raises `ConfigError` naming the flag where its images cannot be read."""
    return _naming_flag(flag, lambda: data.open_source(source.options, source.split))


def _naming_flag(flag: str, read):
    try:
        return read()
    except DataError as error:
        raise ConfigError(f"{flag}: {error}") from error
