"""genimg evaluate --workdir runs/vae_digits"""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from absl import flags

from genimg_jax.commands import command_line, human
from genimg_jax.errors import ConfigError, ResourceError
from genimg_jax.options import absolute

ABOUT = """how good a run is, or a set of images that any program made.

  genimg evaluate --workdir runs/vae_digits
  genimg evaluate --workdir runs/vae_mnist --suite full --config.evaluate.samples=10000
  genimg evaluate --workdir runs/vae_digits --suite full --all-checkpoints
  genimg evaluate --generated images.npz --reference tfds:mnist:test --train tfds:mnist:train
  genimg evaluate --table runs/vae_mnist,runs/made_mnist

The suite 'likelihood' is the held-out loss and likelihood, over one exact pass of config.data.evaluate_split; 'full' is
that and all that samples are compared by. Compare candidates (checkpoints, guidance, steps) with --validation: a figure
that was chosen on the split it is measured on is too good.

Results go to WORKDIR/evaluation. A source is tfds:NAME:SPLIT, digits:SPLIT,
shapes:SPLIT, or a folder, npz file or run directory, with :SPLIT or without: then --reference means its test split and
--train its train split. A run directory stands for its data.
"""
ABOUT += human.ABOUT


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "directory of the run", flag_values=values)
    flags.DEFINE_string("checkpoint", "best", "best, last, or a step", flag_values=values)
    flags.DEFINE_bool("all_checkpoints", False, "every one, and a picture of metrics by step", flag_values=values)
    flags.DEFINE_bool("averaged", True, "the moving average of the weights, where there is one", flag_values=values)
    flags.DEFINE_enum("suite", "likelihood", ["likelihood", "full"], "what is measured", flag_values=values)
    flags.DEFINE_bool(
        "validation", False, "on config.data.validation_split, where choices are made", flag_values=values
    )
    flags.DEFINE_string("generated", None, "images to evaluate instead of a run's: a source", flag_values=values)
    flags.DEFINE_string("reference", None, "what they are compared with: a source", flag_values=values)
    flags.DEFINE_string("train", "", "what their program was trained on, if known: a source", flag_values=values)
    flags.DEFINE_string("out", "", "directory for their report; GENERATED.evaluation if not given", flag_values=values)
    flags.DEFINE_multi_string("table", [], "runs to show in one table, of what is measured already", flag_values=values)
    flags.DEFINE_multi_string(
        "columns", [], "metrics in that table; those of the README if not given", flag_values=values
    )
    human.define(values)


def _run(values: flags.FlagValues) -> None:
    workdir = command_line.workdir(values)
    _prepare(values)
    from genimg_jax import evaluation, files
    from genimg_jax.data import Part
    from genimg_jax.evaluation import results
    from genimg_jax.reports import trajectory

    files.check_writable(workdir / "evaluation", "make it writable, or evaluate a copy of the run")
    part = Part.VALIDATION if values.validation else Part.EVALUATE
    settings = values.config.to_dict(), values.suite, values.averaged, part
    pictures = []
    if values.all_checkpoints:
        reports = evaluation.evaluate_checkpoints(workdir, *settings)
        pictures = [f"{results.file_name('trajectory', values.suite, values.validation)}.png"]
        files.write_atomic(workdir / "evaluation" / pictures[0], trajectory.picture(reports))
    else:
        reports = {values.checkpoint: evaluation.evaluate_run(workdir, settings[0], values.checkpoint, *settings[1:])}
    for name, report in reports.items():
        of = f"{report['examples']} images of {report['split']}"
        print(f"\n{workdir}, checkpoint {name} (step {report['step']}), {of}\n\n{results.text(report)}")
    written = [name for report in reports.values() for name in report["files"]] + pictures
    print(f"\nwritten: {workdir / 'evaluation'}: {', '.join(written)}")


def _images(values: flags.FlagValues) -> None:
    if not values.reference:
        raise ConfigError("compared with what? Give --reference tfds:NAME:SPLIT, or another source; see --help.")
    _prepare(values)
    from genimg_jax import data, evaluation
    from genimg_jax.engine.config import EvaluateOptions
    from genimg_jax.evaluation import results
    from genimg_jax.options import parse

    config = values.config.to_dict()
    read = parse(data.Options, config["data"], "config.data")
    options = parse(EvaluateOptions, config["evaluate"], "config.evaluate")
    out = pathlib.Path(absolute(values.out)) if values.out else beside(values.generated)
    report = evaluation.evaluate_images(values.generated, values.reference, values.train, read, options, out)
    print(f"\n{report['samples']} images of {values.generated} beside {values.reference}\n\n{results.text(report)}")
    print(f"\nwritten: {out}: {', '.join(report['files'])}")


def beside(generated: str) -> pathlib.Path:
    """GENERATED.evaluation, beside GENERATED and not inside it, also if its name ends with a slash."""
    path = absolute(generated.replace("/:", ":"))
    return pathlib.Path(f"{path.removesuffix('.npz')}.evaluation")


def _of_images(arguments: Sequence[str]) -> dict[str, Any]:
    """The sections that apply to images without a run. If the reference is a run's data, `data` is that run's."""
    from dataclasses import asdict

    from genimg_jax.engine.config import SECTIONS

    config = {name: asdict(SECTIONS[name]()) for name in ("data", "evaluate", "runtime")}
    reference = command_line.value(arguments, "reference")
    if reference:
        from genimg_jax.evaluation import named_sources

        run_options = named_sources.of_run(reference)
        config |= {"data": asdict(run_options)} if run_options else {}
    return config


def _table(values: flags.FlagValues) -> None:
    from genimg_jax.evaluation import log_probs, results

    runs = command_line.items(values.table, lambda text: os.path.exists(absolute(text)))
    if not runs:
        raise ConfigError("which runs? Give --table RUN,RUN,...")
    runs = {path: pathlib.Path(absolute(path)) for path in runs}
    names = [run.resolve().name for run in runs.values()]
    names = names if len(set(names)) == len(names) else list(runs)
    report = results.file_name(values.checkpoint, "full")
    reports = {name: results.read(run, report) for name, run in zip(names, runs.values(), strict=True)}
    per_image = {
        name: log_probs.read(run / "evaluation" / f"{report}.json", reports[name]["metrics"])
        for name, run in zip(names, runs.values(), strict=True)
    }
    measured = {metric for stored in reports.values() for metric in stored["metrics"]}
    columns = command_line.items(values.columns, measured.__contains__)
    print(results.table(reports, columns, per_image))


def _human(values: flags.FlagValues) -> None:
    _prepare(values)
    human.write(values)


def _answers(values: flags.FlagValues) -> None:
    try:
        human.read(values)
    except OSError as error:
        raise ResourceError(f"cannot write {error.filename}: {error.strerror}; choose another --out.") from error


def _prepare(values: flags.FlagValues) -> None:
    from genimg_jax.engine import runtime
    from genimg_jax.options import parse

    print(runtime.prepare(parse(runtime.Options, values.config.runtime.to_dict(), "config.runtime")))


class Mode(NamedTuple):
    run: Callable[[flags.FlagValues], None]
    config: command_line.Configured
    flags: tuple[str, ...]
    """The flags that the mode reads, besides the one that selects it."""


# By the flag that selects the mode; the first flag that is set decides.
MODES = {
    "table": Mode(_table, "", ("columns", "checkpoint")),
    "generated": Mode(_images, _of_images, ("reference", "train", "out")),
    "answers": Mode(_answers, "", ("keep_failed", "out")),
    "human": Mode(_human, _of_images, tuple(name for name in human.FLAGS if name != "keep_failed")),
    "all_checkpoints": Mode(_run, "workdir", ("workdir", "averaged", "suite", "validation")),
    "workdir": Mode(_run, "workdir", ("checkpoint", "all_checkpoints", "averaged", "suite", "validation")),
}


def main(arguments: Sequence[str]) -> None:
    arguments = command_line.underscored(arguments)
    chosen = next((name for name in MODES if command_line.is_set(arguments, name)), "workdir")
    mode = MODES[chosen]
    values = command_line.parse("evaluate", ABOUT, define, arguments, config=mode.config)
    for flag in values:
        if not values[flag].present or flag in (chosen, *mode.flags) or flag.startswith("config"):
            continue
        if flag in MODES:
            raise ConfigError(f"--{flag} does not go with --{chosen}; leave one of them out.")
        others = " or ".join(f"--{name}" for name in MODES if flag in MODES[name].flags)
        raise ConfigError(f"--{flag} goes with {others}, not with --{chosen}; leave it out.")
    mode.run(values)
