"""Opens a run: its configuration and its program, with the weights of one of its checkpoints. Writes nothing."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from genimg_jax import core, data, files
from genimg_jax.data import text
from genimg_jax.engine import checkpoint, config_files, parallel, run
from genimg_jax.engine import config as configs
from genimg_jax.engine import program as programs
from genimg_jax.engine.config import Config
from genimg_jax.engine.config_differences import differences, table
from genimg_jax.engine.program import Program
from genimg_jax.errors import CheckpointError, ConfigError

FEATURES_FILE = "features.json"  # in a run directory: the encoder of the field `features`, see `engine.features`


class Restored(NamedTuple):
    program: Program
    weights: core.Weights
    step: int
    dataset: Mapping[str, Any]  # as the manifest has it


def open_run(workdir: pathlib.Path, values: Mapping[str, Any], which: str, averaged: bool = True) -> Restored:
    """The checkpoint `which` ('best', 'last' or a step) of a run, under the configuration `values`.

    `values` may differ from the run's configuration only in options that do not affect training.
    """
    config = configs.resolve(values)
    config = config._replace(data=with_kept(config.data, workdir))
    stored = config_files.of_run(workdir)
    unsafe = [d for d in differences(stored, values) if not d.safe]
    changed = [d for d in unsafe if not d.key.startswith(("data.", "tokenizer."))]
    if changed:
        raise CheckpointError(f"{workdir} was trained with another configuration:\n{table(changed)}")
    manifest = run.read_json(workdir, "manifest.json")
    dataset = manifest["dataset"]
    spec = core.Spec(**dataset["spec"])
    fields = {name: core.Field(tuple(shape), *rest) for name, (shape, *rest) in spec.fields.items()}
    spec = spec._replace(image_shape=tuple(spec.image_shape), fields=fields)
    program = build(config, spec, dataset["stored_levels"])
    check_tokenizer(manifest, program, workdir)
    weights, step = load(workdir, program, which, averaged)
    return Restored(program, weights, step, dataset)


def with_kept(options: data.Options, *folders: str | os.PathLike) -> data.Options:
    """The options with the vocabulary and the statistics of features of the first of these run directories that keeps
    one; "" is no directory."""
    options = text.with_vocabulary(options, *folders)
    if not (path := files.first_with(FEATURES_FILE, folders)):
        return options
    return dataclasses.replace(options, features=dataclasses.replace(options.features, statistics=path))


def load(workdir: pathlib.Path, program: Program, which: str, averaged: bool = True) -> tuple[core.Weights, int]:
    """The weights of a checkpoint, for a program that is built already, and its step."""
    store = _store(workdir, program.config)
    step = checkpoint.choose(store, which)
    return core.weights(checkpoint.restore(store, step, program.abstract_state), averaged), step


def steps(workdir: pathlib.Path, config: Config) -> list[int]:
    """The steps of a run's checkpoints, in order. Raises `CheckpointError` where there is none."""
    store = _store(workdir, config)
    checkpoint.choose(store, "last")
    return checkpoint.steps(store)


def _store(workdir: pathlib.Path, config: Config) -> checkpoint.Store:
    return checkpoint.open_store(workdir, config.train.keep, config.train.best, read_only=True)


def build(config: Config, spec: core.Spec, stored_levels: int) -> Program:
    """The program of a configuration, over the codes of its tokenizer where it names one."""
    return programs.build(config, spec, stored_levels, tokenizer(config, spec))


def tokenizer(config: Config, spec: core.Spec) -> programs.Stage | None:
    """The trained first stage that a configuration names, if any.

    Raises `ConfigError` for a run that is no tokenizer, or one of other images.
    """
    workdir = pathlib.Path(config.tokenizer.workdir)
    if not config.tokenizer.workdir:
        return None
    first, record = open_stage(workdir, config.tokenizer.checkpoint, config.parallel)
    family = first.program.family
    if core.space_with(family, "encode") is None:
        raise ConfigError(
            f"config.tokenizer.workdir is {workdir}, a run of {first.program.config.family}, which has no codes; "
            "train a tokenizer, such as configs/vq_digits.py."
        )
    if problem := other_data(first.program, spec):
        raise ConfigError(f"the tokenizer {workdir} {problem}.")
    return programs.Stage(family, first.weights, record)


def open_stage(workdir: pathlib.Path, which: str, options: parallel.Options) -> tuple[Restored, dict[str, Any]]:
    """A checkpoint that another run uses, and the record that identifies its weights."""
    first = open_run(workdir, {**config_files.of_run(workdir), "parallel": asdict(options)}, which)
    stored = checkpoint.about(_store(workdir, first.program.config), first.step)["shapes"]
    weights = checkpoint.digest(first.weights, stored)
    return first, {"workdir": str(workdir), "step": first.step, "weights": weights}


def other_data(tokenizer: Program, spec: core.Spec) -> str:
    """Why a tokenizer cannot encode images of this spec, or "". It may have been trained without their conditions."""
    trained = tokenizer.spec
    if (trained.image_shape, trained.levels) != (spec.image_shape, spec.levels):
        return (
            f"was trained on images {trained.image_shape} of {trained.levels} levels, and the data is of "
            f"{spec.image_shape} of {spec.levels}"
        )
    needed = {name: trained.conditions[name] for name in tokenizer.family.conditions}
    lacking = [name for name, field in needed.items() if spec.conditions.get(name) != field]
    return f"is conditioned on {', '.join(lacking)}, which the data has not or in another form" if lacking else ""


def check_tokenizer(manifest: Mapping[str, Any], program: Program, workdir: pathlib.Path) -> None:
    """Raises `CheckpointError` if the run in `workdir` was trained over a tokenizer with other weights."""
    if program.tokenizer and manifest["tokenizer"]["weights"] != program.tokenizer.record["weights"]:
        was, now = manifest["tokenizer"], program.tokenizer.record
        raise CheckpointError(
            f"{workdir} was trained over the codes of {was['workdir']} at step {was['step']}; step {now['step']} of "
            f"{now['workdir']} has other weights. Name the one with --config.tokenizer.checkpoint={was['step']}."
        )
