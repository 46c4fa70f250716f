"""Progress bars with rate and time left, on stderr; a log file gets a line now and then instead of a film."""

import sys
from typing import Any

from tqdm import tqdm


def bar(description: str = "", **arguments: Any) -> tqdm:
    """tqdm's bar; on a screen it appears only for work that takes a second."""
    screen = sys.stderr.isatty()
    return tqdm(desc=description, delay=1 if screen else 0, mininterval=0.1 if screen else 30.0, **arguments)
