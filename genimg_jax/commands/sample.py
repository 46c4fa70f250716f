"""genimg sample --workdir runs/vae_digits --count 64"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from absl import flags

from genimg_jax.commands import command_line
from genimg_jax.errors import ConfigError
from genimg_jax.options import absolute

if TYPE_CHECKING:  # only then: an invalid flag is refused without loading JAX
    import pathlib

    from genimg_jax.data import Source
    from genimg_jax.engine import restore
    from genimg_jax.engine.conditions import FieldValues

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
  genimg sample --workdir runs/stylegan2_shapes --mix 6 --crossover 3
  genimg sample --workdir runs/stylegan2_shapes --truncation 0.7
  genimg sample --workdir runs/diffusion_digits --relative_std 0.15

--condition.FIELD=VALUE gives a condition: a class, a caption, the file of a map, an image or an array (.npy). Features
that an encoder makes are given as an image or a folder of images, of which each in turn is varied. What is not said is
taken from the images of the split that is --given, in their order, else from those of the test split. Where a model is
told nothing but classes, it is asked for each in turn. Interpolations are between codes that are drawn, or between
those of images 2i and 2i + 1 of the split that is --given, where the model encodes images. A mixture in row i and
column j has the first --crossover layers of sample i, those of coarse features, and the others of sample N + j.

Image i of a seed is the same whatever the count and the batch size. images.npz holds `image` and its conditions: of
classes `label` and the names of all `classes`, of captions `caption`; of reconstructions also the images that were
encoded, as `original`, and of mixtures the samples. DIRECTORY can be given to genimg evaluate --generated."""
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
    flags.DEFINE_integer("mix", 0, "N rows and columns of mixtures of 2 N samples' layers", 0, flag_values=values)
    flags.DEFINE_integer("crossover", 0, "layers of the row's sample; half of them if not given", 0, flag_values=values)
    flags.DEFINE_float(
        "truncation", None, "the same as --config.model.truncation: 1 all styles, 0 their mean", flag_values=values
    )
    flags.DEFINE_integer("steps", 10, "images in a row of interpolations", lower_bound=2, flag_values=values)
    flags.DEFINE_string("out", "", "directory; WORKDIR/generated/NAME if not given", flag_values=values)
    flags.DEFINE_bool("singles", True, "also write each image to a PNG of its own", flag_values=values)


class Samples(NamedTuple):
    """The images of one call of a command, before they are written."""

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
    _check(values)
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
    write(samples, out, values.singles)
    print(f"{samples.count} images of step {run.step}: {out}\ngrid: {out / 'grid.png'}")


def _short(text: str) -> str:
    """A text as a part of a file name."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text.rstrip("/").rpartition("/")[2]).strip("-")[:40]


def _sample(values: flags.FlagValues, run: restore.Restored, texts: Mapping[str, str]) -> Samples:
    from genimg_jax import core
    from genimg_jax.data import Part, classes
    from genimg_jax.engine import codes, conditions, features, images, tasks

    program, weights = run.program, run.weights
    names = run.dataset.get("classes", ())
    field_values = {name: conditions.parse(program, name, text, names) for name, text in texts.items()}
    if values.reconstruct:
        source, columns = features.open_source(program.config.data, Part.EVALUATE), tasks.COLUMNS
        rows = images.to_uint8(tasks.reconstruct(program, weights, source, values.reconstruct))
        shape, count = rows.shape[3:], min(values.reconstruct, source.size)
        original, reconstructed = rows.swapaxes(0, 1).reshape(2, -1, *shape)[:, :count]
        grid, name = rows.reshape(-1, *shape), f"reconstructions-{run.step}"
        return Samples(name, count, [reconstructed], {"original": original}, columns, grid=grid)
    lacking = set(program.family.conditions) - {"label"} - set(field_values)
    source = None
    if values.given or lacking:
        source = features.open_source(program.config.data, command_line.part(values.given or "test"))
    seed = program.config.seed if values.seed is None else values.seed
    if values.mix:
        return _mixtures(values, run, seed, field_values, source)
    grid = None
    if values.interpolate:
        name, columns, count = f"interpolations-{run.step}-seed{seed}", values.steps, values.interpolate * values.steps
        if values.given and core.space_with(program.family, "encode", "interpolate"):
            parts = [codes.interpolate_held_out(program, weights, source, values.interpolate, columns, field_values)]
            index = codes.nearer_end(np.arange(count), columns)
        else:
            parts = [codes.interpolate(program, weights, values.interpolate, columns, seed, field_values, source)]
            index = np.arange(count) // columns
    else:
        best = f"-best-of-{values.best_of}" if values.best_of > 1 else ""
        name, count = f"samples-{run.step}-seed{seed}{best}", values.count
        columns = tasks.sample_columns(program, min(count, GRID), field_values or source)
        parts = tasks.sample_batches(program, weights, count, seed, field_values, source, values.best_of)
        index = np.arange(count)
        if "source" in program.family.conditions and not field_values and values.best_of == 1:
            columns = tasks.COLUMNS
            shown = tasks.beside_held_out(program, weights, source, min(count, GRID), seed)
            grid = images.to_uint8(shown.reshape(-1, *shown.shape[3:]))
    beside, captions = conditions.all_rows(program, index, field_values, source), []
    if "label" in beside:  # runs of earlier versions have no names of classes
        named = names or list(map(str, range(program.spec.num_classes)))
        captions = [named[label] for label in beside["label"]]
        beside |= classes.as_stored(beside.pop("label"), named)
    if "tokens" in beside:
        del beside["tokens"]
        captions = [texts["tokens"]] * count if "tokens" in texts else source.captions(index % source.size)
        beside["caption"] = np.array(captions)
    return Samples(name, count, parts, beside, columns, captions if grid is None else (), grid)


def _mixtures(
    values: flags.FlagValues, run: restore.Restored, seed: int, field_values: FieldValues, source: Source | None
) -> Samples:
    """The samples whose layers are mixed are the first row and the first column of the grid."""
    from genimg_jax.engine import codes, images, tasks

    count, arguments = values.mix, (seed, field_values, source)
    mixed = images.to_uint8(codes.mix(run.program, run.weights, count, values.crossover, *arguments))
    samples = images.to_uint8(tasks.sample(run.program, run.weights, 2 * count, *arguments))
    blank = np.full_like(samples[:1], images.BACKGROUND)
    rows = [np.concatenate([samples[i : i + 1], row]) for i, row in enumerate(mixed)]
    grid = np.concatenate([blank, samples[count:], *rows])
    layers = f"-crossover{values.crossover}" if values.crossover else ""
    name, flat = f"mixtures-{run.step}-seed{seed}{layers}", mixed.reshape(-1, *mixed.shape[2:])
    return Samples(name, count**2, [flat], {"original": samples}, count + 1, grid=grid)


def _check(values: flags.FlagValues) -> None:
    """Raises `ConfigError` for flags that exclude one another, and sets the option of --truncation."""
    given = [name for name in ("interpolate", "reconstruct", "mix") if values[name].value]
    given += ["best_of"] if values.best_of > 1 else []
    if len(given) > 1:
        raise ConfigError(f"--{given[0]} and --{given[1]} are both given; leave one of them out.")
    if values.reconstruct and values.seed is not None:
        raise ConfigError("--reconstruct draws nothing: leave --seed out.")
    if values.crossover and not values.mix:
        raise ConfigError("--crossover is of mixtures: give --mix N too.")
    if values.truncation is not None:
        model = values.config.model
        if "truncation" not in model:
            raise ConfigError(f"{values.config.family} truncates no styles; stylegan2 does.")
        model.truncation = values.truncation


def write(samples: Samples, out: pathlib.Path, singles: bool = True) -> None:
    """Writes `grid.png`, `images.npz` and, if `singles`, a PNG file of each image."""
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
