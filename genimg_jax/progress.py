"""Progress bars with rate and time left, on stderr."""

import sys
from typing import Any

from tqdm import tqdm


def bar(description: str = "", leave: bool = True, **arguments: Any) -> tqdm:
    """tqdm's bar. On a screen it appears for work that takes a second; a log file gets a line now and then of the bars
    that are left standing, and none of the passing ones."""
    if sys.stderr.isatty():
        return tqdm(desc=description, leave=leave, delay=1, **arguments)
    return tqdm(desc=description, disable=not leave, mininterval=30.0, **arguments)
