"""genimg reproduce runs/vae_digits"""

import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from genimg_jax.commands import command_line
from genimg_jax.errors import ConfigError, Failure
from genimg_jax.options import absolute

ABOUT = """trains a run once more, from its configuration, and says whether the same bits come out.

  genimg reproduce runs/vae_digits
  genimg reproduce runs/vae_digits --workdir runs/vae_digits_again

Says first what is not as the run's manifest has it: code, packages, machine, cores, data. Parameters are those of the
last checkpoint, metrics all that was logged but timings. Exit codes: 0 the same, 1 not, and those of genimg train."""


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "workdir", None, "directory of the second run; a temporary one unless given", flag_values=values
    )


def main(arguments: Sequence[str]) -> None:
    arguments = list(arguments)
    named = arguments.pop(0) if arguments and not arguments[0].startswith("-") else ""
    values = command_line.parse("reproduce", ABOUT, define, arguments)
    if not named:
        raise ConfigError("which run? Give genimg reproduce DIRECTORY.")
    original = pathlib.Path(absolute(named))
    with tempfile.TemporaryDirectory(prefix="genimg-reproduce-") as temporary:
        again = command_line.workdir(values) if values.workdir else pathlib.Path(temporary) / "run"
        _reproduce(original, again, pathlib.Path(temporary))


def _reproduce(original: pathlib.Path, again: pathlib.Path, temporary: pathlib.Path) -> None:
    from genimg_jax.engine import config as configs
    from genimg_jax.engine import config_files, reproduce, run, runtime
    from genimg_jax.sweeps.grid import overlay

    if again.resolve() == original.resolve():
        raise ConfigError(f"--workdir is {original} itself; name another directory, or leave it out.")
    settings = config_files.of_run(original)
    manifest = run.read_json(original, "manifest.json")
    config = configs.resolve(settings)
    reproduce.take_cores(manifest)  # before JAX counts its threads
    print(runtime.prepare(config.runtime))
    from genimg_jax.engine import training

    step = reproduce.check_finished(original, config)
    if companions := manifest.get("companions"):
        # A run of a program of several runs differs from a separate run by rounding.
        print(f"one of {len(companions)} runs that were one program, all of which are trained again")
        places = [again if i == manifest["place"] else temporary / str(i) for i in range(len(companions))]
        runs = [(overlay(settings, overrides), place) for overrides, place in zip(companions, places, strict=True)]
        if failure := training.train_together(runs)[manifest["place"]]:
            raise failure
    else:
        training.train(config, settings, again)
    differing = reproduce.environment_differences(manifest, run.read_json(again, "manifest.json"))
    print("\n" + _listed(differing))
    compared = reproduce.compare(original, again, step)
    arrays = _counted(compared.arrays, compared.arrays_differing, "arrays")
    print(f"parameters, optimiser and all else at step {step}: {arrays}")
    print(f"metrics: {_counted(compared.lines, compared.lines_differing, 'lines')}")
    if compared.arrays_differing or compared.lines_differing:
        why = f"see the {len(differing)} differences above" if differing else "although nothing known differs"
        raise Failure(f"{original} was not reproduced, {why}.")
    print(f"{original} is reproduced, bit for bit.")


def _listed(differing: Mapping[str, tuple[Any, Any]]) -> str:
    if not differing:
        return "code, packages, machine, cores and data: as in the run's manifest"
    width = max(map(len, differing))
    lines = [f"  {key:{width}}  then {then}, now {now}" for key, (then, now) in differing.items()]
    return "not as in the run's manifest:\n" + "\n".join(lines)


def _counted(count: int, differing: Sequence[str], what: str) -> str:
    if not differing:
        return f"all {count} {what} the same"
    return f"{len(differing)} of {count} {what} differ, first: {differing[0]}"
