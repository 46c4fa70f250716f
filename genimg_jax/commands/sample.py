"""genimg sample --workdir runs/vae_digits --count 64"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from absl import flags

from genimg_jax.commands import command_line
from genimg_jax.options import absolute

if TYPE_CHECKING:  # only then: an invalid flag is refused without loading JAX
    import pathlib

    from genimg_jax.engine import restore

ABOUT = """images of a run: DIRECTORY/grid.png (the first images), DIRECTORY/000000.png ..., DIRECTORY/images.npz.

  genimg sample --workdir runs/vae_digits --count 64
  genimg sample --workdir runs/gan_digits --count 16 --condition.label=3 --seed 7
  genimg sample --workdir runs/scenes --condition.tokens='a small red circle above a large blue square'
  genimg sample --workdir runs/scenes --given test --count 64
  genimg sample --workdir runs/scenes_transformer --given test --best_of 8
  genimg sample --workdir runs/features_flow_digits --condition.features=photos/ --count 64
  genimg sample --workdir runs/vae_digits --interpolate 8 --steps 10
  genimg sample --workdir runs/vae_digits --interpolate 8 --given test
  genimg sample --workdir runs/vq_digits --reconstruct 32
  genimg sample --workdir runs/diffusion_digits --relative_std 0.15

--condition.FIELD=VALUE gives a condition: a class, a caption, the file of a map, an image or an array (.npy). Features
that an encoder makes are given as an image or a folder of images, of which each in turn is varied. What is not said is
taken from the images of the split that is --given, in their order, else from those of the test split. Where a model is
told nothing but classes, it is asked for each in turn. Interpolations are between codes that are drawn, or between
those of images 2i and 2i + 1 of the split that is --given, where the model encodes images.

Image i of a seed is the same whatever the count and the batch size. images.npz holds `image` and its conditions: of
classes `label` and the names of all `classes`, of captions `caption`; of reconstructions also the images that were
encoded, as `original`. DIRECTORY can be given to genimg evaluate --generated."""
GRID, GRID_PIXELS = 1024, 2**24  # of the images in the picture, at most


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "directory of the run (required)", flag_values=values)
    flags.DEFINE_string("checkpoint", "best", "best, last, or a step", flag_values=values)
    flags.DEFINE_bool("averaged", True, "the moving average of the weights, where there is one", flag_values=values)
    flags.DEFINE_float(
        "relative_std", None, "another width of the averages that optimizer.ema_relative_stds kept", flag_values=values
    )
    flags.DEFINE_integer("count", 64, "number of images", lower_bound=1, flag_values=values)
    flags.DEFINE_integer(
        "seed", None, "which set of images; the run's own if not given", 0, 2**31 - 1, flag_values=values
    )
    flags.DEFINE_integer(
        "best_of", 1, "images drawn for each one that is kept, the likeliest under its condition", 1, flag_values=values
    )
    flags.DEFINE_string("label", None, "the same as --condition.label", flag_values=values)
    flags.DEFINE_enum(
        "given", None, command_line.PARTS, "whose images' conditions are taken, in their order", flag_values=values
    )
    flags.DEFINE_integer("interpolate", 0, "rows of interpolations between pairs of codes", 0, flag_values=values)
    flags.DEFINE_integer("reconstruct", 0, "held-out images, above what their codes give", 0, flag_values=values)
    flags.DEFINE_integer("steps", 10, "images in a row of interpolations", lower_bound=2, flag_values=values)
    flags.DEFINE_string("out", "", "directory; WORKDIR/generated/NAME if not given", flag_values=values)
    flags.DEFINE_bool("singles", True, "also write each image to a PNG of its own", flag_values=values)


class Samples(NamedTuple):
    """The images of one call of the command, before they are written."""

    name: str
    count: int
    parts: Iterable[np.ndarray]
    """[n, H, W, C] ..."""
    beside: Mapping[str, np.ndarray] = {}
    """The other arrays of the archive"""
    columns: int | None = None
    """Columns of the grid"""
    captions: Sequence[str] = ()
    """Texts below the images of the grid"""
    grid: np.ndarray | None = None
    """The images of the grid; None: the first of `parts`"""


def main(arguments: Sequence[str]) -> None:
    texts, arguments = command_line.take_prefixed(arguments, "condition")
    values = command_line.parse("sample", ABOUT, define, arguments, config="workdir")
    workdir = command_line.workdir(values)
    texts |= {"label": values.label} if values.label is not None else {}
    import pathlib

    from genimg_jax.engine import config as configs
    from genimg_jax.engine import runtime

    print(runtime.prepare(configs.resolve(values.config).runtime))
    from genimg_jax.engine import averaging, restore
    from genimg_jax.files import check_writable

    out = pathlib.Path(absolute(values.out)) if values.out else workdir / "generated"
    check_writable(out, "choose another --out")
    run = restore.open_run(workdir, values.config.to_dict(), values.checkpoint, values.averaged)
    if values.relative_std is not None:
        run = run._replace(weights=averaging.reconstruct(workdir, run.program, run.step, values.relative_std))
    samples = _sample(values, run, texts)
    if not values.out:
        split = {"given": values.given} if values.given else {}
        out /= samples.name + "".join(f"-{name}-{_short(text)}" for name, text in {**texts, **split}.items())
    _write(samples, out, values.singles)
    print(f"{samples.count} images of step {run.step}: {out}\ngrid: {out / 'grid.png'}")


def _short(text: str) -> str:
    """A text as a part of a file name."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text.rstrip("/").rpartition("/")[2]).strip("-")[:40]


def _sample(values: flags.FlagValues, run: restore.Restored, texts: Mapping[str, str]) -> Samples:
    from genimg_jax import core
    from genimg_jax.data import Part, classes
    from genimg_jax.engine import conditions, features, images, tasks

    program, weights = run.program, run.weights
    names = run.dataset.get("classes", ())
    field_values = {name: conditions.parse(program, name, text, names) for name, text in texts.items()}
    if values.reconstruct:
        source, columns = features.open_source(program.config.data, Part.EVALUATE), tasks.COLUMNS
        grid = images.to_uint8(tasks.reconstruct(program, weights, source, values.reconstruct))
        shape = grid.shape[1:]
        rows = grid.reshape(-1, 2, columns, *shape).swapaxes(0, 1)  # originals, reconstructions
        original, reconstructed = rows.reshape(2, -1, *shape)[:, : min(values.reconstruct, source.size)]
        name = f"reconstructions-{run.step}"
        return Samples(name, len(reconstructed), [reconstructed], {"original": original}, columns, grid=grid)
    lacking = set(program.family.conditions) - {"label"} - set(field_values)
    source = None
    if values.given or lacking:
        source = features.open_source(program.config.data, command_line.part(values.given or "test"))
    seed = program.config.seed if values.seed is None else values.seed
    if values.interpolate:
        name, columns, count = f"interpolations-{run.step}-seed{seed}", values.steps, values.interpolate * values.steps
        if values.given and core.space_with(program.family, "encode", "interpolate"):
            parts = [tasks.interpolate_held_out(program, weights, source, values.interpolate, columns, field_values)]
            index = tasks.nearer_end(np.arange(count), columns)
        else:
            parts = [tasks.interpolate(program, weights, values.interpolate, columns, seed, field_values, source)]
            index = np.arange(count) // columns
    else:
        best = f"-best-of-{values.best_of}" if values.best_of > 1 else ""
        name, count = f"samples-{run.step}-seed{seed}{best}", values.count
        columns = tasks.sample_columns(program, min(count, GRID), field_values or source)
        parts = tasks.sample_batches(program, weights, count, seed, field_values, source, values.best_of)
        index = np.arange(count)
    beside, captions = conditions.all_rows(program, index, field_values, source), []
    if "label" in beside:  # runs of earlier versions have no names of classes
        named = names or list(map(str, range(program.spec.num_classes)))
        captions = [named[label] for label in beside["label"]]
        beside |= classes.as_stored(beside.pop("label"), named)
    if "tokens" in beside:
        del beside["tokens"]
        captions = [texts["tokens"]] * count if "tokens" in texts else source.captions(index % source.size)
        beside["caption"] = np.array(captions)
    return Samples(name, count, parts, beside, columns, captions)


def _write(samples: Samples, out: pathlib.Path, singles: bool) -> None:
    from genimg_jax.engine import images

    first = []

    def pictures() -> Iterator[np.ndarray]:  # -> u8[n, H, W, C] ...
        """Yields all images, writes each to its file, and keeps the first for the grid."""
        start = 0
        for part in map(images.to_uint8, samples.parts):
            for i, picture in enumerate(part if singles else (), start):
                images.save_png(out / f"{i:06d}.png", picture)
            shown = min(GRID, max(1, GRID_PIXELS // (part.shape[1] * part.shape[2])))
            if start < shown:
                first.append(part[: shown - start].copy())  # a view would keep all of the part in memory
            start += len(part)
            yield part

    images.save_npz(out / "images.npz", samples.count, pictures(), **samples.beside)
    grid = np.concatenate(first) if samples.grid is None else samples.grid
    images.save_png(out / "grid.png", images.grid(grid, samples.columns, captions=samples.captions[: len(grid)]))
