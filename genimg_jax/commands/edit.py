"""genimg edit caption --workdir runs/text_shapes --given test"""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Callable, Iterable, Sequence
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

caption: the likeliest caption of each image and its probability, by Bayes' rule from the likelihood of the image under
every candidate. Candidates are the captions of the training images, or the lines of a file. A run that models captions
too (model.model_condition) weighs them by their own probability; to any other they are equally likely. An image costs
a likelihood a candidate. Written to DIRECTORY/captions.jsonl.

Images are a file, a folder, or those of the split that is --given, in their order.
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
    values = command_line.parse("edit", ABOUT, define, rest, config="workdir")
    workdir = command_line.workdir(values)
    if bool(values.images) == bool(values.given):
        raise ConfigError("which images? Give one of --images FILE, --images FOLDER and --given test.")
    from genimg_jax.engine import config as configs
    from genimg_jax.engine import restore, runtime
    from genimg_jax.files import check_writable, write_atomic

    print(runtime.prepare(configs.resolve(values.config).runtime))
    run = restore.open_run(workdir, values.config.to_dict(), values.checkpoint, values.averaged)
    out = pathlib.Path(absolute(values.out)) if values.out else workdir / "edited" / f"{name}-{run.step}"
    check_writable(out, "choose another --out")
    file, content = TASKS[name](values, run)
    write_atomic(out / file, content)
    print(f"\nwritten: {out / file}")


def _caption(values: flags.FlagValues, run: restore.Restored) -> tuple[str, str]:
    """The name of a file and its content, one line per image. Prints the first lines as a table."""
    from genimg_jax.evaluation import captioning

    inputs = _inputs(values, run)
    posterior = captioning.posterior(run.program, run.weights, inputs.images, _candidates(values, run))
    rows = []
    for i, (name, each) in enumerate(zip(inputs.names, posterior.probabilities, strict=True)):
        row = {"image": name, "caption": posterior.captions[each.argmax()], "probability": float(each.max())}
        rows.append({**row, "own_caption": inputs.captions[i]} if inputs.captions else row)
    print(f"{len(rows)} images, {len(posterior.captions)} candidates\n")
    for row in rows[:SHOWN]:
        print(f"{row['probability']:6.1%}  {row['image']}: {row['caption']}")
    return "captions.jsonl", "".join(json.dumps(row) + "\n" for row in rows)


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


def _inputs(values: flags.FlagValues, run: restore.Restored) -> Inputs:
    import numpy as np

    from genimg_jax.data import folder
    from genimg_jax.engine.conditions import PIXEL_LIMIT

    if values.given:
        source = _source(run, values.given)
        index = np.arange(min(values.count, source.size))
        captions = source.captions(index) if source.captions else []
        return Inputs(source.read(index)["image"], source.names(index), captions)
    shape, levels = run.program.spec.image_shape, run.dataset["stored_levels"]
    pictures = folder.pictures(absolute(values.images), shape, levels, PIXEL_LIMIT)
    names, images = zip(*itertools.islice(pictures, values.count), strict=True)
    return Inputs(np.stack(images), list(names), [])


def _source(run: restore.Restored, part: str) -> Source:
    """Images and captions of a part of the run's data, without fields."""
    from genimg_jax.data import open_source

    options = dataclasses.replace(run.program.config.data, fields=())
    return open_source(options, command_line.part(part))


TASKS: dict[str, Callable[[flags.FlagValues, restore.Restored], tuple[str, str]]] = {"caption": _caption}
