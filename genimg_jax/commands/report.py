"""genimg report --workdir runs/vae_digits"""

import pathlib
from collections.abc import Sequence

from absl import flags

from genimg_jax.commands import command_line
from genimg_jax.errors import ConfigError, ResourceError

ABOUT = """one self-contained HTML page about a run, finished or not: WORKDIR/report.html.

  genimg report --workdir runs/vae_digits"""
PARTS = ("config.json", "manifest.json", "metrics.jsonl", "samples", "evaluation", "checkpoints")


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "directory of the run (required)", flag_values=values)


def main(arguments: Sequence[str]) -> None:
    values = command_line.parse("report", ABOUT, define, arguments)
    print(f"written: {run(command_line.workdir(values))}")


def run(workdir: pathlib.Path) -> pathlib.Path:
    """Write `report.html` into a run directory, complete or just started, and return its path.

    Raises ConfigError if the directory has nothing of a run in it, ResourceError if it cannot be written.
    """
    if not any((workdir / part).exists() for part in PARTS):
        raise ConfigError(f"{workdir} is no run directory: it has none of {', '.join(PARTS)}; make one by training.")
    from genimg_jax.files import write_atomic
    from genimg_jax.reports.run_page import page

    path = workdir / "report.html"
    try:
        write_atomic(path, page(workdir))
    except OSError as error:
        raise ResourceError(f"cannot write {path}: {error.strerror}; free space there or change its rights.") from error
    return path
