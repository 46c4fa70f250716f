"""Progress bars of a running sweep, from the metrics.jsonl of its trials, on whatever machine these run."""

import contextlib
import json
import sys
import threading
from collections.abc import Iterator, Sequence

from tqdm import tqdm

from genimg_jax import progress
from genimg_jax.sweeps.trials import Trial, trained

TAIL = 8192  # bytes at the end of metrics.jsonl, which hold its last line
EVERY = 1.0  # seconds between updates
SHOWN = 12  # running trials with their own bar


def last_step(trial: Trial) -> int:
    """The last step that the run has logged; 0 before the first."""
    return _last(trial)[0]


def _last(trial: Trial) -> tuple[int, str]:
    """The last logged step, and the losses of the last line about training."""
    try:
        with (trial.workdir / "metrics.jsonl").open("rb") as file:
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


def _images(trial: Trial, step: int) -> int:
    return min(step, trial.values["train"]["steps"]) * trial.values["train"]["batch_size"]


@contextlib.contextmanager
def progress_bars(trials: Sequence[Trial]) -> Iterator[None]:
    """Shows a bar for the images of all trials on stderr and, on a terminal, a bar for each running trial."""
    if not trials:
        yield
        return
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(trials, over), daemon=True)
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


def _watch(trials: Sequence[Trial], over: threading.Event) -> None:
    steps = {trial.digest: last_step(trial) for trial in trials}
    begun = dict(steps)
    bars: dict[str, tqdm] = {}
    total = progress.bar(
        "sweep",
        total=sum(_images(trial, trial.values["train"]["steps"]) for trial in trials),
        initial=sum(_images(trial, steps[trial.digest]) for trial in trials),
        unit="image",
        unit_scale=True,
        smoothing=0,
    )
    with total:
        while True:
            last_look = over.wait(EVERY)
            for trial in trials:
                step, losses = _last(trial)
                if step != steps[trial.digest]:
                    steps[trial.digest] = step
                    if sys.stderr.isatty():
                        _line(trial, step, losses, begun[trial.digest], bars)
            for digest in [d for d in bars if trained(next(c for c in trials if c.digest == d))]:
                bars.pop(digest).close()
            total.update(sum(_images(trial, steps[trial.digest]) for trial in trials) - total.n)
            if last_look:
                break
        for bar in bars.values():
            bar.close()


def _line(trial: Trial, step: int, losses: str, begun: int, bars: dict[str, tqdm]) -> None:
    if trial.digest not in bars and len(bars) < SHOWN:
        steps = trial.values["train"]["steps"]
        bars[trial.digest] = progress.bar(trial.name, leave=False, total=steps, initial=begun, unit="step")
    if trial.digest in bars:
        bars[trial.digest].set_postfix_str(losses, refresh=False)
        bars[trial.digest].update(step - bars[trial.digest].n)
