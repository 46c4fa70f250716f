"""Images that come with other images: pairs, for supervised translation, and two domains, for unpaired translation."""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Sequence

import numpy as np

from genimg_jax import files
from genimg_jax.data import decode
from genimg_jax.data.folder import files_below, open_folder
from genimg_jax.data.types import Options, Stored
from genimg_jax.errors import DataError

Read = Callable[[np.ndarray], dict[str, Sequence[np.ndarray]]]


def open_pairs(options: Options) -> Stored:
    """A folder of images, as `open_folder` reads it, each with a partner.

    The partner is the file with the image's name in the folder `pairs.partner`; the ending of the name may differ. If
    no such folder is given, each file holds an image and its partner side by side. The field `source` is the partner as
    an image, and the field `map` is a partner in grey or palette colours whose values number segments. Raises DataError
    naming the file if a partner is missing or has another size than its image, or if a file cannot be halved.
    """
    stored, wanted = open_folder(options), [name for name in ("source", "map") if name in options.fields]
    if not options.pairs.partner:
        read = functools.partial(_read_halves, stored, options.pairs.image_side == "right", wanted)
        return stored._replace(read=read, fields={"source": 0}, listing=f"{stored.listing} {options.pairs.image_side}")
    root, other = options.path, _folder(options.pairs.partner, "pairs")
    images = stored.names(np.arange(sum(map(len, stored.splits.values()))))
    partners = _partners(images, root, other)
    sizes = [(os.path.relpath(path, other), os.path.getsize(path)) for path in partners]
    return stored._replace(
        read=functools.partial(_read_files, stored, partners, wanted, options.pixel_limit, options.pairs.segments),
        fields={"source": 0, "map": options.pairs.segments},
        listing=files.digest(json.dumps([stored.listing, sizes]), 64),
    )


def open_domains(options: Options) -> Stored:
    """Two folders of unpaired images, each as `open_folder` reads it: `path`, and `domains.partner` as the field
    `source`."""
    partner = _folder(options.domains.partner, "domains")
    return open_folder(options)._replace(domains={"source": open_folder(dataclasses.replace(options, path=partner))})


def _folder(path: str, kind: str) -> str:
    if not os.path.isdir(path):
        raise DataError(f"There is no folder '{path}': set data.{kind}.partner to the other folder of images.")
    return path


def _partners(images: list[str], root: str, other: str) -> list[str]:
    """The path of each image's partner."""
    files = files_below(other)
    named = {os.path.splitext(file)[0]: file for file in files} | {file: file for file in files}
    partners = []
    for path in images:
        name = os.path.relpath(path, root)
        partner = named.get(name) or named.get(os.path.splitext(name)[0])
        if partner is None:
            raise DataError(f"'{path}' has no partner: put a file of that name in '{other}', or take the image away.")
        partners.append(partner)
    if unpaired := sorted(set(files) - set(partners)):
        raise DataError(f"'{os.path.join(other, unpaired[0])}' has no partner: put an image of that name in '{root}', "
                        "or take the file away.")  # fmt: skip
    return [os.path.join(other, file) for file in partners]


def _read_files(
    stored: Stored, partners: list[str], wanted: list[str], pixel_limit: int, segments: int, positions: np.ndarray
) -> dict[str, Sequence[np.ndarray]]:
    rows, paths = stored.read(positions), [partners[position] for position in positions]
    if "source" in wanted:
        rows["source"] = [decode.read_file(path, pixel_limit) for path in paths]
    if "map" in wanted:
        rows["map"] = [decode.read_map(path, pixel_limit) for path in paths]
    for name in wanted:
        for image, value, image_path, path in zip(
            rows["image"], rows[name], stored.names(positions), paths, strict=True
        ):
            if image.shape[:2] != value.shape[:2]:
                sizes = [" x ".join(map(str, x.shape[:2])) for x in (image, value)]
                raise DataError(
                    f"'{image_path}' is {sizes[0]} and its partner '{path}' {sizes[1]}: make them of one size."
                )
            if name == "map" and value.max() >= segments:
                raise DataError(f"'{path}' has segment {value.max()}: raise data.pairs.segments={segments}.")
    return rows


def _read_halves(
    stored: Stored, image_right: bool, wanted: list[str], positions: np.ndarray
) -> dict[str, Sequence[np.ndarray]]:
    rows, halves = stored.read(positions), []
    for whole, path in zip(rows["image"], stored.names(positions), strict=True):
        width = whole.shape[1]
        if width % 2:
            raise DataError(f"'{path}' is {width} pixels wide, so that it holds no two images side by side; name the "
                            "folder of their partners, data.pairs.partner.")  # fmt: skip
        halves.append(np.split(whole, 2, axis=1)[:: 1 if image_right else -1])
    sources, images = zip(*halves, strict=True)
    return {**rows, "image": images} | ({"source": sources} if wanted else {})
