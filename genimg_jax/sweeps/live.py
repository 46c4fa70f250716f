"""How far the cells of a sweep have come, shown while they are trained, wherever that is: from their metrics.jsonl."""

import contextlib
import json
import sys
import threading
from collections.abc import Iterator, Sequence

from tqdm import tqdm

from genimg_jax import progress
from genimg_jax.sweeps.cells import Cell, trained

TAIL = 8192  # bytes at the end of metrics.jsonl, which hold its last line
EVERY = 1.0  # seconds between looks
SHOWN = 12  # running cells with a line of their own


def last_step(cell: Cell) -> int:
    """The last step that the run has logged; 0 before the first."""
    return _last(cell)[0]


def _last(cell: Cell) -> tuple[int, str]:
    """The last logged step, and the losses of the last line about training."""
    try:
        with (cell.workdir / "metrics.jsonl").open("rb") as file:
            file.seek(max(file.seek(0, 2) - TAIL, 0))
            lines = file.read().splitlines()
    except OSError:
        return 0, ""
    for text in reversed(lines):
        try:
            line = json.loads(text)
        except ValueError:  # cut short
            continue
        if isinstance(line, dict) and line.get("split") == "train":
            losses = [f"{k}={v:.4g}" for k, v in line.items() if k.startswith("loss") and isinstance(v, float)]
            return line["step"], " ".join(losses)
    return 0, ""


def _images(cell: Cell, step: int) -> int:
    return min(step, cell.values["train"]["steps"]) * cell.values["train"]["batch_size"]


@contextlib.contextmanager
def shown(cells: Sequence[Cell]) -> Iterator[None]:
    """While it is open: a bar of all images of the cells on stderr and, on a screen, a line for each running one."""
    if not cells:
        yield
        return
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(cells, over), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def say(line: str) -> None:
    """Prints a line above the bars."""
    if sys.stderr.isatty():
        tqdm.write(line)
    else:
        print(line, flush=True)


def _watch(cells: Sequence[Cell], over: threading.Event) -> None:
    steps = {cell.digest: last_step(cell) for cell in cells}
    begun = dict(steps)
    bars: dict[str, tqdm] = {}
    total = progress.bar(
        "sweep",
        total=sum(_images(cell, cell.values["train"]["steps"]) for cell in cells),
        initial=sum(_images(cell, steps[cell.digest]) for cell in cells),
        unit="image",
        unit_scale=True,
        smoothing=0,
    )
    with total:
        while True:
            last_look = over.wait(EVERY)
            for cell in cells:
                step, losses = _last(cell)
                if step != steps[cell.digest]:
                    steps[cell.digest] = step
                    if sys.stderr.isatty():
                        _line(cell, step, losses, begun[cell.digest], bars)
            for digest in [d for d in bars if trained(next(c for c in cells if c.digest == d))]:
                bars.pop(digest).close()
            total.update(sum(_images(cell, steps[cell.digest]) for cell in cells) - total.n)
            if last_look:
                break
        for bar in bars.values():
            bar.close()


def _line(cell: Cell, step: int, losses: str, begun: int, bars: dict[str, tqdm]) -> None:
    if cell.digest not in bars and len(bars) < SHOWN:
        steps = cell.values["train"]["steps"]
        bars[cell.digest] = progress.bar(cell.name, leave=False, total=steps, initial=begun, unit="step")
    if cell.digest in bars:
        bars[cell.digest].set_postfix_str(losses, refresh=False)
        bars[cell.digest].update(step - bars[cell.digest].n)
