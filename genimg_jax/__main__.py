"""The command line: `genimg COMMAND ...`, the same as `python -m genimg_jax COMMAND ...`.

Help and usage errors answer before JAX is imported.
"""

import importlib
import os
import sys
from collections.abc import Sequence

from absl import logging

from genimg_jax.errors import ConfigError, exit_code
from genimg_jax.options import nearest

COMMANDS = {
    "train": "train a family from a config file; the same command resumes",
    "evaluate": "how good a run is, or any images: likelihood, distances, classes, memorisation, people",
    "sample": "images of a run: a grid, single PNGs and an .npz; interpolations",
    "edit": "given images: completed, restored, changed, restyled, translated, captioned",
    "report": "one self-contained HTML page about a run",
    "sweep": "an experiment: its trials planned, trained, evaluated, compared",
    "reproduce": "a run done once more, and compared bit for bit",
    "families": "what each family can do",
}

USAGE = "usage: genimg COMMAND [--flags]; genimg COMMAND --help says more\n\n" + "\n".join(
    f"  {name:10} {what}" for name, what in COMMANDS.items()
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code. A `Failure` is one sentence on stderr, and its code."""
    logging.set_verbosity(logging.ERROR)  # users cannot act on libraries' remarks about their defaults
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return exit_code(lambda: _run(arguments))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of the output, such as head, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(arguments: list[str]) -> int | None:
    if not arguments or arguments[0] in ("-h", "--help", "--helpfull", "help"):
        print(USAGE)
        return 0 if arguments else ConfigError.exit_code
    name = arguments[0]
    if name not in COMMANDS:
        raise ConfigError(f"no command {name!r}{nearest(name, COMMANDS)}\n{USAGE}")
    importlib.import_module(f"genimg_jax.commands.{name}").main(arguments[1:])
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
