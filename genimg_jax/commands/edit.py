"""genimg edit caption --workdir runs/text_shapes --given test"""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from absl import flags

from genimg_jax.commands import command_line
from genimg_jax.errors import ConfigError, ResourceError
from genimg_jax.options import absolute, nearest

if TYPE_CHECKING:  # only then: an invalid flag is refused without loading JAX
    import numpy as np

    from genimg_jax.data import Source
    from genimg_jax.engine import restore

ABOUT = """what a run makes of images that it is given: genimg edit TASK.

  genimg edit caption --workdir runs/text_shapes --given test --count 16
  genimg edit caption --workdir runs/text_shapes --images photos --captions captions.txt
  genimg edit translate --workdir runs/cyclegan_emoji --images photos
  genimg edit project --workdir runs/stylegan2_mnist --images three.png --condition.label=3

caption: the likeliest caption of each image and its probability, by Bayes' rule from the likelihood of the image under
every candidate. Candidates are the captions of the training images, or the lines of a file. A run that models captions
too (model.model_condition) weighs them by their own probability; to any other they are equally likely. An image costs
a likelihood a candidate. Written to DIRECTORY/captions.jsonl.

translate: an image of each source, by a run that is told 'source', such as cyclegan or pix2pix. With --backward from
the domain of its images to that of the sources, by a run that translates both ways. The grid has rows of the given
images, of their translations and, where both ways are known, of these translated back.

project: the codes whose image is nearest in mean square, a code for each layer where there are layers. The nearest of
--starts samples is improved by --steps steps of Adam. The grid has rows of the given images and of their projections.

Images are a file, a folder, or those of the split that is --given, in their order. What a run is told of them is what
they come with, or --condition.FIELD=VALUE as in genimg sample. Images are written to DIRECTORY/000000.png ..., and to
images.npz with the given ones as `original`, and the `codes` of projections.
"""
SHOWN = 20  # rows of a printed table


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "directory of the run (required)", flag_values=values)
    flags.DEFINE_string("checkpoint", "best", "best, last, or a step", flag_values=values)
    flags.DEFINE_bool("averaged", True, "the moving average of the weights, where there is one", flag_values=values)
    flags.DEFINE_string("images", "", "an image file, or a folder of them", flag_values=values)
    flags.DEFINE_enum("given", None, command_line.PARTS, "the split whose images are taken", flag_values=values)
    flags.DEFINE_integer("count", 16, "at most so many images", lower_bound=1, flag_values=values)
    flags.DEFINE_string("captions", "", "caption: a file with a candidate a line", flag_values=values)
    flags.DEFINE_bool("backward", False, "translate: into the domain of the sources", flag_values=values)
    flags.DEFINE_integer("starts", 128, "project: samples to begin from", lower_bound=2, flag_values=values)
    flags.DEFINE_integer("steps", 300, "project: steps of the optimiser", lower_bound=0, flag_values=values)
    flags.DEFINE_integer("seed", 0, "of what is drawn", lower_bound=0, upper_bound=2**31 - 1, flag_values=values)
    flags.DEFINE_string("out", "", "directory; WORKDIR/edited/TASK-STEP if not given", flag_values=values)


class Inputs(NamedTuple):
    """The images that a task works on."""

    images: np.ndarray
    """u8[N, H, W, C], in the levels of the run's data"""
    names: list[str]
    captions: list[str]
    """The captions of the images; [] if there are none"""


def main(arguments: Sequence[str]) -> None:
    named = [a for a in arguments[:1] if not a.startswith("-")]
    name, rest = "".join(named), arguments[len(named) :]
    if name not in TASKS and not {"-h", "--help"} & set(rest):
        raise ConfigError(f"genimg edit has no task {name!r}{nearest(name, TASKS)} Tasks: {', '.join(TASKS)}.")
    texts, rest = command_line.take_prefixed(rest, "condition")
    values = command_line.parse("edit", ABOUT, define, rest, config="workdir")
    workdir = command_line.workdir(values)
    if bool(values.images) == bool(values.given):
        raise ConfigError("which images? Give one of --images FILE, --images FOLDER and --given test.")
    from genimg_jax.engine import config as configs
    from genimg_jax.engine import restore, runtime
    from genimg_jax.files import check_writable

    print(runtime.prepare(configs.resolve(values.config).runtime))
    run = restore.open_run(workdir, values.config.to_dict(), values.checkpoint, values.averaged)
    out = pathlib.Path(absolute(values.out)) if values.out else workdir / "edited" / f"{name}-{run.step}"
    check_writable(out, "choose another --out")
    print(f"\nwritten: {TASKS[name](values, run, texts, out)}")


def _caption(
    values: flags.FlagValues, run: restore.Restored, texts: Mapping[str, str], out: pathlib.Path
) -> pathlib.Path:
    """Writes a line per image. Prints the first lines as a table."""
    from genimg_jax.evaluation import captioning
    from genimg_jax.files import write_atomic

    if texts:
        raise ConfigError("genimg edit caption finds the condition of images: leave --condition out.")
    inputs = _inputs(values, run)
    posterior = captioning.posterior(run.program, run.weights, inputs.images, _candidates(values, run))
    rows = []
    for i, (name, each) in enumerate(zip(inputs.names, posterior.probabilities, strict=True)):
        row = {"image": name, "caption": posterior.captions[each.argmax()], "probability": float(each.max())}
        rows.append({**row, "own_caption": inputs.captions[i]} if inputs.captions else row)
    print(f"{len(rows)} images, {len(posterior.captions)} candidates\n")
    for row in rows[:SHOWN]:
        print(f"{row['probability']:6.1%}  {row['image']}: {row['caption']}")
    write_atomic(out / "captions.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return out / "captions.jsonl"


def _translate(
    values: flags.FlagValues, run: restore.Restored, texts: Mapping[str, str], out: pathlib.Path
) -> pathlib.Path:
    import numpy as np

    from genimg_jax.data import transforms
    from genimg_jax.engine import tasks

    program, family = run.program, run.program.config.family
    if "source" not in program.family.conditions:
        raise ConfigError(f"this {family} translates no images: it is not told 'source', as cyclegan and pix2pix are.")
    if not values.backward:
        images = _inputs(values, run, "source").images
        field_values = _field_values(run, texts) | {"source": np.asarray(transforms.field(images))}
        return _write(out, *tasks.translate(program, run.weights, field_values, values.seed))
    if program.spec.conditions["source"].paired:
        raise ConfigError(f"{family} translates only the sources, and cyclegan both ways: leave --backward out.")
    return _write(out, *tasks.translate_back(program, run.weights, _inputs(values, run).images))


def _project(
    values: flags.FlagValues, run: restore.Restored, texts: Mapping[str, str], out: pathlib.Path
) -> pathlib.Path:
    import numpy as np

    from genimg_jax.engine import projection

    inputs, field_values = _inputs(values, run), _field_values(run, texts)
    source = _source(run, values.given, fields=True) if values.given else None
    task = projection.Projection(values.starts, values.steps)
    projected = projection.project(run.program, run.weights, inputs.images, task, values.seed, field_values, source)
    for name, psnr in list(zip(inputs.names, projected.psnr, strict=True))[:SHOWN]:
        print(f"{psnr:6.2f} dB  {name}")
    pooled = -10 * np.log10(np.mean(10 ** (-projected.psnr / 10)))
    print(f"{len(projected.psnr)} images: PSNR {pooled:.2f} dB of all pixels together")
    return _write(out, projected.original, projected.image, codes=projected.codes)


def _write(out: pathlib.Path, original: np.ndarray, *results: np.ndarray, **beside: np.ndarray) -> pathlib.Path:
    """Writes the first of the results, and a grid with rows of the originals and of each of the results."""
    import numpy as np

    from genimg_jax.commands.sample import GRID, Samples, write
    from genimg_jax.engine import images, tasks

    rows = [images.to_uint8(x) for x in (original, *results)]
    columns, shown, channels = tasks.COLUMNS, rows[0][:GRID], max(x.shape[-1] for x in rows)
    cells = np.full(
        (len(rows), -(-len(shown) // columns) * columns, *shown.shape[1:3], channels), images.BACKGROUND, np.uint8
    )
    for cell, row in zip(cells, rows, strict=True):
        cell[: len(shown)] = row[:GRID]
    grid = cells.reshape(len(rows), -1, columns, *cells.shape[2:]).swapaxes(0, 1).reshape(-1, *cells.shape[2:])
    write(Samples("", len(rows[1]), [rows[1]], {"original": rows[0], **beside}, columns, grid=grid), out)
    return out / "grid.png"


def _field_values(run: restore.Restored, texts: Mapping[str, str]) -> dict[str, np.ndarray]:
    from genimg_jax.engine import conditions

    names = run.dataset.get("classes", ())
    return {name: conditions.parse(run.program, name, text, names) for name, text in texts.items()}


def _candidates(values: flags.FlagValues, run: restore.Restored) -> Iterable[str]:
    import numpy as np

    from genimg_jax.engine import conditions

    if not values.captions:
        source = _source(run, "train")
        return source.captions(np.arange(source.size)) if source.captions else []
    try:
        lines = pathlib.Path(absolute(values.captions)).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ResourceError(f"--captions {values.captions} cannot be read: {error}.") from error
    candidates = [line.strip() for line in lines if line.strip()]
    for caption in candidates:
        conditions.parse(run.program, "tokens", caption)  # raises for a word that the run does not know
    return candidates


def _inputs(values: flags.FlagValues, run: restore.Restored, field: str = "image") -> Inputs:
    """The images that are given, or of the field 'source' those of the sources' domain."""
    import numpy as np

    from genimg_jax.data import folder, loading
    from genimg_jax.engine.conditions import PIXEL_LIMIT

    is_source = field == "source"
    if values.given:
        source = _source(run, values.given, fields=is_source)
        index = np.arange(min(values.count, source.size))
        captions = source.captions(index) if source.captions else []
        return Inputs(loading.rows(source, index)[field], source.names(index), captions)
    spec = run.program.spec
    shape = spec.fields[field].shape if is_source else spec.image_shape
    levels = 256 if is_source else run.dataset["stored_levels"]
    pictures = folder.pictures(absolute(values.images), shape, levels, PIXEL_LIMIT)
    names, images = zip(*itertools.islice(pictures, values.count), strict=True)
    return Inputs(np.stack(images), list(names), [])


def _source(run: restore.Restored, part: str, fields: bool = False) -> Source:
    """Images and captions of a part of the run's data, with its other fields or without."""
    from genimg_jax.engine import features

    options = run.program.config.data
    options = options if fields else dataclasses.replace(options, fields=(), features=type(options.features)())
    return features.open_source(options, command_line.part(part))


TASKS: dict[str, Callable[[flags.FlagValues, restore.Restored, Mapping[str, str], pathlib.Path], pathlib.Path]] = {
    "caption": _caption,
    "translate": _translate,
    "project": _project,
}
"""Each writes its results to a directory, and returns the file to look at."""
