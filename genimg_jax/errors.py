"""Failures a user can act on: one sentence each, and the exit code the command line leaves with.

Anything else that escapes is a defect of this project and keeps its traceback.
"""

import sys
from collections.abc import Callable


class Failure(Exception):
    """The problem, its place, and what to do; the process exits with `exit_code`."""

    exit_code = 1


class ConfigError(Failure):
    """Invalid command line or configuration."""

    exit_code = 2


class DataError(Failure):
    """A dataset, image or split that cannot be read."""

    exit_code = 3


class CheckpointError(Failure):
    """A checkpoint that is missing, damaged, or belongs to another configuration."""

    exit_code = 4


class NumericsError(Failure):
    """Training that stopped being finite."""

    exit_code = 5


class ResourceError(Failure):
    """A place that cannot be written, a lock that is held, memory or disk that ran out."""

    exit_code = 6


class Preempted(Failure):
    """A run that was stopped by a signal and saved: the same command continues it (sysexits' EX_TEMPFAIL)."""

    exit_code = 75

    def __init__(self, message: str, signal: int | None = None):
        super().__init__(message)
        self.signal = signal  # the signal that stopped it


def exit_code(command: Callable[[], int | None]) -> int:
    """The exit code of a command: its own, or that of a `Failure`, which is printed to stderr."""
    try:
        return command() or 0
    except Failure as failure:
        print(f"genimg: {failure}", file=sys.stderr)
        return failure.exit_code
