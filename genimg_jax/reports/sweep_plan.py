"""A sweep's trials as text for a terminal."""

from collections.abc import Sequence

from genimg_jax.sweeps.driver import State


def table(states: Sequence[State]) -> str:
    """A line for each trial, and the total."""
    width = max(len("trial"), *(len(state.trial.name) for state in states))
    lines = [f"{'trial':{width}}  {'state':8} {'step':>15} {'spent':>8} {'to go':>8}"]
    for s in states:
        step = f"{s.step} of {s.trial.values['train']['steps']}"
        to_go = "" if s.status == "done" else "?" if s.estimate is None else duration(s.estimate)
        spent = duration(s.seconds) if s.seconds else ""
        status = s.status + ("" if s.evaluated or s.status != "done" else ", not evaluated")
        lines.append(f"{s.trial.name:{width}}  {status:8} {step:>15} {spent:>8} {to_go:>8}".rstrip())
        lines += [f"    {text}" for text in s.message.splitlines()]
    counts = {status: sum(s.status == status for s in states) for status in dict.fromkeys(s.status for s in states)}
    lines += ["", f"{len(states)} trials: " + ", ".join(f"{count} {status}" for status, count in counts.items())]
    rest = [s for s in states if s.status != "done"]
    if rest and all(s.estimate is not None for s in rest):
        lines[-1] += f"; {duration(sum(s.estimate for s in rest))} of training to go, one after another"
    elif rest:
        lines[-1] += "; how long one takes is known once one is done"
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Such as 4.2 s, 3 min 5 s or 2 h 10 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60) if seconds >= 3600 else int(seconds // 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {seconds % 60:.0f} s"
