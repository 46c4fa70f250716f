"""genimg evaluate --workdir runs/vae_digits"""

import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from genimg_jax.commands import command_line, human
from genimg_jax.errors import ConfigError

ABOUT = """how good a run is, or a set of images that any program made.

  genimg evaluate --workdir runs/vae_digits
  genimg evaluate --workdir runs/vae_mnist --suite full --config.evaluate.samples=10000
  genimg evaluate --workdir runs/vae_digits --suite full --all-checkpoints
  genimg evaluate --generated images.npz --reference tfds:mnist:test --train tfds:mnist:train
  genimg evaluate --table runs/vae_mnist,runs/made_mnist

The suite 'likelihood' is the held-out loss and likelihood, over one exact pass of config.data.evaluate_split; 'full' is
that and all that samples are compared by. Results go to WORKDIR/evaluation. A source is tfds:NAME:SPLIT, digits:SPLIT,
shapes:SPLIT, or a folder, npz file or run directory, with :SPLIT or without.
"""
ABOUT += human.ABOUT


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "directory of the run", flag_values=values)
    flags.DEFINE_string("checkpoint", "best", "best, last, or a step", flag_values=values)
    flags.DEFINE_bool("all_checkpoints", False, "every one, and a picture of metrics by step", flag_values=values)
    flags.DEFINE_bool("averaged", True, "the moving average of the weights, where there is one", flag_values=values)
    flags.DEFINE_enum("suite", "likelihood", ["likelihood", "full"], "what is measured", flag_values=values)
    flags.DEFINE_string("generated", None, "images to evaluate instead of a run's: a source", flag_values=values)
    flags.DEFINE_string("reference", None, "what they are compared with: a source", flag_values=values)
    flags.DEFINE_string("train", "", "what their program was trained on, if known: a source", flag_values=values)
    flags.DEFINE_string("out", "", "directory for their report; GENERATED.evaluation if not given", flag_values=values)
    flags.DEFINE_list("table", [], "runs to show in one table, of what is measured already", flag_values=values)
    flags.DEFINE_list("columns", [], "metrics in that table; those of the README if not given", flag_values=values)
    human.define(values)


def main(arguments: Sequence[str]) -> None:
    arguments = command_line.underscored(arguments)
    if command_line.given(arguments, "table"):
        return _table(command_line.parse("evaluate", ABOUT, define, arguments))
    if command_line.given(arguments, "generated"):
        return _images(command_line.parse("evaluate", ABOUT, define, arguments, config=_of_images))
    if command_line.given(arguments, "answers"):
        return human.read(command_line.parse("evaluate", ABOUT, define, arguments))
    if command_line.given(arguments, "human"):
        values = command_line.parse("evaluate", ABOUT, define, arguments, config=_of_images)
        _prepare(values)
        return human.write(values)
    for flag in human.FLAGS:
        if command_line.given(arguments, flag):
            raise ConfigError(f"--{flag} goes with --human or --answers; leave it out.")
    values = command_line.parse("evaluate", ABOUT, define, arguments, config="workdir")
    for flag in ("reference", "train", "out", "columns"):
        if getattr(values, flag):
            raise ConfigError(f"--{flag} goes with --{'table' if flag == 'columns' else 'generated'}; leave it out.")
    workdir = command_line.workdir(values)
    _prepare(values)
    from genimg_jax import evaluation
    from genimg_jax.evaluation import results

    settings = values.config.to_dict(), values.suite, values.averaged
    if values.all_checkpoints:
        reports = evaluation.evaluate_checkpoints(workdir, *settings)
    else:
        reports = {values.checkpoint: evaluation.evaluate_run(workdir, settings[0], values.checkpoint, *settings[1:])}
    for name, report in reports.items():
        of = f"{report['examples']} images of {report['split']}"
        print(f"\n{workdir}, checkpoint {name} (step {report['step']}), {of}\n\n{results.text(report)}")
    written = [name for report in reports.values() for name in report["files"]]
    written += [f"trajectory{'-full' * (values.suite == 'full')}.png"] * values.all_checkpoints
    print(f"\nwritten: {workdir / 'evaluation'}: {', '.join(written)}")


def _images(values: flags.FlagValues) -> None:
    if not values.reference:
        raise ConfigError("compared with what? Give --reference tfds:NAME:SPLIT, or another source; see --help.")
    if values.workdir:
        raise ConfigError("--generated evaluates images instead of a run's; leave --workdir out.")
    _prepare(values)
    from genimg_jax import data, evaluation
    from genimg_jax.engine.config import EvaluateOptions
    from genimg_jax.evaluation import results
    from genimg_jax.options import parse

    config = values.config.to_dict()
    read = parse(data.Options, config["data"], "config.data")
    options = parse(EvaluateOptions, config["evaluate"], "config.evaluate")
    out = pathlib.Path(values.out or f"{values.generated.removesuffix('.npz')}.evaluation").expanduser()
    report = evaluation.evaluate_images(values.generated, values.reference, values.train, read, options, out)
    print(f"\n{report['samples']} images of {values.generated} beside {values.reference}\n\n{results.text(report)}")
    print(f"\nwritten: {out}: {', '.join(report['files'])}")


def _of_images(arguments: Sequence[str]) -> dict[str, Any]:
    """The sections that apply to images without a run; where their reference is a run's data, as the run read it."""
    from dataclasses import asdict

    from genimg_jax.engine.config import SECTIONS

    config = {name: asdict(SECTIONS[name]()) for name in ("data", "evaluate", "runtime")}
    reference = command_line.value(arguments, "reference")
    if reference:
        from genimg_jax.evaluation import image_sets

        own = image_sets.of_run(reference)
        config |= {"data": asdict(own)} if own else {}
    return config


def _table(values: flags.FlagValues) -> None:
    from genimg_jax.evaluation import results

    runs = [pathlib.Path(path).expanduser() for path in values.table]
    columns = values.columns or results.COLUMNS
    print(results.table({run.name: results.read(run, f"{values.checkpoint}-full") for run in runs}, columns))


def _prepare(values: flags.FlagValues) -> None:
    from genimg_jax.engine import runtime
    from genimg_jax.options import parse

    print(runtime.prepare(parse(runtime.Options, values.config.runtime.to_dict(), "config.runtime")))
