"""Progress bars with rate and time left, on stderr."""

import sys
from typing import Any

from tqdm import tqdm


def bar(description: str = "", leave: bool = True, **arguments: Any) -> tqdm:
    """tqdm's bar. A terminal shows it after one second. A log file gets a line every 30 seconds if the bar is kept
    (`leave`), and none otherwise."""
    if sys.stderr.isatty():
        return tqdm(desc=description, leave=leave, delay=1, **arguments)
    return tqdm(desc=description, disable=not leave, mininterval=30.0, **arguments)
