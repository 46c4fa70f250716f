"""genimg edit inpaint --workdir runs/diffusion_digits --given test"""

from __future__ import annotations

import importlib
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import flags

from genimg_jax.commands import command_line
from genimg_jax.errors import ConfigError, Failure
from genimg_jax.options import absolute, nearest

if TYPE_CHECKING:  # only then: an invalid flag is refused without loading JAX
    from genimg_jax.commands.edits.job import Job


class Entry(NamedTuple):
    module: str  # of `commands.edits`: its `Options`, `defaults`, `method` and `perform`
    about: str


TASKS = {
    "inpaint": Entry("restore", "fills a hole: --task.mask=box, half, random, centre, or a --task.mask_file"),
    "outpaint": Entry("restore", "continues an image around its centre; --task.share of it is hidden"),
    "superres": Entry("restore", "enlarges, --task.factor=2 or 4 times"),
    "deblur": Entry("restore", "removes a blur of --task.sigma pixels, or of a --task.kernel_file"),
    "denoise": Entry("restore", "removes noise of deviation --task.noise, where 2 is from black to white"),
    "colourise": Entry("restore", "gives a grey image its colours"),
    "jpeg": Entry("restore", "removes what JPEG of --task.quality did"),
    "several": Entry("restore", "undoes several of these at once, --task.steps=deblur,superres"),
    "vary": Entry("vary", "variations: noise is added up to --task.level, and sampled away (SDEdit)"),
    "change": Entry("change", "the image under another --condition.FIELD=VALUE, such as another class or caption"),
    "interpolate": Entry("interpolate", "the way from each image to the next, through their codes"),
    "direction": Entry("direction", "moved along a --task.direction of codes, found from labels or without"),
    "style": Entry("style", "the content of each image in the colours or the style of --task.style=FILE"),
    "project": Entry("project", "the codes whose image is nearest, a code for each layer where there are layers"),
    "translate": Entry("translate", "an image in the other domain, by a run that is told 'source'"),
    "caption": Entry("caption", "the likeliest caption, by Bayes' rule from the image's likelihood given each"),
}

ABOUT = """what a run makes of images that it is given: genimg edit TASK.

  genimg edit inpaint --workdir runs/diffusion_digits --given test --task.mask=half --count 4
  genimg edit superres --workdir runs/vae_shapes --images photos --task.factor=2
  genimg edit translate --workdir runs/cyclegan_emoji --images photos
  genimg edit caption --workdir runs/text_shapes --given test
  genimg edit --list --workdir runs/diffusion_digits

""" + "\n".join(f"  {name:10} {entry.about}" for name, entry in TASKS.items()) + """

--list says which of them a run can do, and how exactly. A task's options are --task.NAME=VALUE; genimg edit TASK --help
lists them.

Images are a file, a folder, an .npz with the array `image`, or those of the split that is --given, in their order: the
first --limit of them. What a run is told of them is what they come with, or --condition.FIELD=VALUE as in genimg
sample. To restore, whole images are given: what is observed of them is made first, and the results are compared with
them. --count results of each image are drawn from one observation.

Written: DIRECTORY/000000.png ..., the grid, and images.npz with the given images as `original`; of a restoration
scores.json; of `caption` captions.jsonl.
"""  # fmt: skip


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "directory of the run (required)", flag_values=values)
    flags.DEFINE_string("checkpoint", "best", "best, last, or a step", flag_values=values)
    flags.DEFINE_bool("averaged", True, "the moving average of the weights, where there is one", flag_values=values)
    flags.DEFINE_bool("list", False, "which tasks the run can do", flag_values=values)
    flags.DEFINE_string("images", "", "an image file, a folder of them, or an .npz", flag_values=values)
    flags.DEFINE_enum("given", None, command_line.PARTS, "the split whose images are taken", flag_values=values)
    flags.DEFINE_integer("limit", 16, "at most so many images", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("count", 1, "results of each image, where they are random", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("seed", 0, "of what is drawn", lower_bound=0, upper_bound=2**31 - 1, flag_values=values)
    flags.DEFINE_string("out", "", "directory; WORKDIR/edited/TASK-STEP if not given", flag_values=values)


def main(arguments: Sequence[str]) -> None:
    named = [a for a in arguments[:1] if not a.startswith("-")]
    name, rest = "".join(named), list(arguments[len(named) :])
    help_asked = bool({"-h", "--help"} & set(rest))
    if name not in TASKS and not help_asked and not command_line.is_set(rest, "list"):
        raise ConfigError(f"genimg edit has no task {name!r}{nearest(name, TASKS)} Tasks: {', '.join(TASKS)}.")
    conditions, rest = command_line.take_prefixed(rest, "condition")
    texts, rest = command_line.take_prefixed(rest, "task")
    if name in TASKS and help_asked:
        print(f"genimg edit {name}: {TASKS[name].about}\n\noptions:\n{_options_help(name)}\n")
    values = command_line.parse("edit", ABOUT, define, rest, config="workdir")
    workdir = command_line.workdir(values)
    if not values.list and bool(values.images) == bool(values.given):
        raise ConfigError("which images? Give one of --images FILE, --images FOLDER and --given test.")
    from genimg_jax.commands.edits.job import Job, differences, parse
    from genimg_jax.engine import config as configs
    from genimg_jax.engine import restore, runtime
    from genimg_jax.files import check_writable, write_atomic

    print(runtime.prepare(configs.resolve(values.config).runtime))
    run = restore.open_run(workdir, values.config.to_dict(), values.checkpoint, values.averaged)
    if values.list:
        print("\n".join(f"{task:10} {_how(Job(task, values, run, {}, None, workdir))}" for task in TASKS))
        return
    out = pathlib.Path(absolute(values.out)) if values.out else workdir / "edited" / f"{name}-{run.step}"
    check_writable(out, "choose another --out")
    module = _module(name)
    job = Job(name, values, run, conditions, parse(module.defaults(name, run), texts), out)
    method = _asked(module.method, job)
    print(f"{name}: {method}")
    written = _asked(module.perform, job)
    changed = differences(job.options, module.defaults(name, run))
    record = {"task": name, "method": method, "step": run.step, "seed": values.seed, "options": changed}
    write_atomic(out / "edit.json", json.dumps(record, indent=1))
    print(f"\nwritten: {written}")


def _module(name: str):
    return importlib.import_module(f"genimg_jax.commands.edits.{TASKS[name].module}")


def _how(job: Job) -> str:
    """How a run does a task, or why it cannot."""
    module = _module(job.task)
    try:
        return _asked(module.method, job._replace(options=module.defaults(job.task, job.run)))
    except Failure as error:
        return f"no: {error}"


def _asked(function: Callable[[Job], Any], job: Job) -> Any:
    """The function's result; errors about an observation name the flags of the command line."""
    try:
        return function(job)
    except ConfigError as error:
        raise ConfigError(str(error).replace("observation.", "--task.")) from error


def _options_help(name: str) -> str:
    import dataclasses

    fields = dataclasses.fields(_module(name).Options)
    return "\n".join(
        f"  --task.{field.name} [{field.default!r}] {', '.join(map(str, field.metadata.get('choices', ())))}".rstrip()
        for field in fields
    )
