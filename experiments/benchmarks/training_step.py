"""Images a second of one training step, this project beside PyTorch, on the CPU of this machine.

    python experiments/benchmarks/training_step.py --only mlp_gan,dcgan32 --rounds 7 --output table.json

Each contender is a process of its own. They take turns, a round at a time, while the others wait: what disturbs the
machine then disturbs all of them. A turn waits for the other processes of the machine to be quiet, and is taken again
if they were not meanwhile, up to a limit: PyTorch's threads suffer most from sharing a core. Figures are medians over
the undisturbed turns, or over all of them where there was none; the table says how many were disturbed.
"""

import argparse
import itertools
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

from problems import PROBLEMS

SECONDS = 1.0  # of each turn, about
WARM_UP_STEPS = 3
DISTURBED = 0.05  # share of the machine's cores that other processes use
JAX_VARIANTS = ("tuned", "plain")


class Contender:
    """A process that waits until it is told how many steps to take."""

    def __init__(self, problem: str, name: str, cache: str):
        self.name, period = name, PROBLEMS[problem].period
        command = [sys.executable, __file__, "--worker", problem, name]
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.description = self._read()
        self.steps = 1 if self.description else 0
        if self.description:
            taken = self.take_turn()
            self.steps = period * max(1, round(SECONDS / taken["seconds"] / period))

    def _read(self) -> dict:
        line = self.process.stdout.readline()
        return json.loads(line) if line else {}

    def take_turn(self) -> dict:
        self.process.stdin.write(f"{self.steps}\n")
        self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def work(problem: str, name: str) -> None:
    """A contender's side: prints what it is, then, for every number of steps read, the time they took."""
    framework, variant = name.split(" ")
    if framework == "jax":
        import jax_step as steps
    else:
        import torch_step as steps
    run, description = steps.make(PROBLEMS[problem], variant)
    run(WARM_UP_STEPS)
    print(json.dumps(description), flush=True)
    for line in sys.stdin:
        busy, own, start = busy_seconds(), own_seconds(), time.perf_counter()
        loss = run(int(line))
        seconds = time.perf_counter() - start
        foreign = (busy_seconds() - busy - (own_seconds() - own)) / (seconds * os.cpu_count())
        print(json.dumps({"seconds": seconds, "loss": loss, "foreign": foreign}), flush=True)


def busy_seconds() -> float:
    """Processor time that every process has used since boot; 0 where the system does not say."""
    stat = pathlib.Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system = (int(x) for x in stat.read_text().split(maxsplit=4)[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def wait_for_quiet(deadline: float, window: float = 0.3) -> None:
    """Returns once the machine was idle for a moment, or at the deadline."""
    while time.monotonic() < deadline:
        busy = busy_seconds()
        time.sleep(window)
        if busy_seconds() - busy < DISTURBED * window * os.cpu_count():
            return


def own_seconds() -> float:
    return sum(os.times()[:2])


def contenders_of(problem: str, names: list[str]) -> list[Contender]:
    with tempfile.TemporaryDirectory() as cache:  # a compilation that was interrupted once leaves a damaged one
        contenders = [c for c in (Contender(problem, name, cache) for name in names) if c.description]
    counts = {c.description["parameters"] for c in contenders}
    if len(counts) != 1:
        raise SystemExit(f"{problem}: the contenders differ in their numbers of parameters: {counts}")
    return contenders


def measure(names: dict[str, list[str]], rounds: int, patience: float) -> dict:
    """{problem: {contender: {images_per_second, turns, disturbed, ...}}}, for the names of each problem's contenders.

    All problems take turns too.
    """
    contenders = {problem: contenders_of(problem, chosen) for problem, chosen in names.items()}
    turns = {problem: {c.name: [] for c in members} for problem, members in contenders.items()}
    for _ in range(rounds):
        for problem, members in contenders.items():
            for contender in members:
                deadline = time.monotonic() + patience
                wait_for_quiet(deadline)
                turn = contender.take_turn()
                while turn["foreign"] >= DISTURBED and time.monotonic() < deadline:
                    wait_for_quiet(deadline)
                    turn = contender.take_turn()
                rate = contender.steps * PROBLEMS[problem].batch_size / turn["seconds"]
                turns[problem][contender.name].append({**turn, "rate": rate})
    for contender in itertools.chain.from_iterable(contenders.values()):
        contender.close()
    return {
        problem: {
            c.name: {
                "images_per_second": statistics.median(undisturbed(turns[problem][c.name])),
                "disturbed": sum(t["foreign"] >= DISTURBED for t in turns[problem][c.name]),
                "last_loss": turns[problem][c.name][-1]["loss"],
                "turns": [round(t["rate"], 1) for t in turns[problem][c.name]],
                **c.description,
            }
            for c in members
        }
        for problem, members in contenders.items()
    }


def undisturbed(turns: list[dict]) -> list[float]:
    return [t["rate"] for t in turns if t["foreign"] < DISTURBED] or [t["rate"] for t in turns]


def table(results: dict, rounds: int) -> str:
    """The results as Markdown."""
    lines = [
        f"{os.cpu_count()} cores, {platform.machine()}, float32, Adam; medians of {rounds} interleaved rounds.",
        "",
        "| training step | batch | parameters | contender | images/s | to the best PyTorch | disturbed | settings |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for problem, found in results.items():
        best = max((r["images_per_second"] for n, r in found.items() if n.startswith("torch")), default=float("nan"))
        for name, row in found.items():
            rate, version = row["images_per_second"], row["version"]
            lines.append(
                f"| {problem} | {PROBLEMS[problem].batch_size} | {row['parameters']:,} | {version} {name.split()[1]} "
                f"| {rate:.0f} | {rate / best:.2f} | {row['disturbed']}/{rounds} | {row['settings']} |"
            )
    return "\n".join(lines)


def penalty_costs(results: dict) -> str:
    """The time of a step with penalties relative to the same step without, of each framework's fastest contender."""

    def best(problem: str, framework: str) -> float:
        rates = [r["images_per_second"] for name, r in results[problem].items() if name.startswith(framework)]
        return max(rates, default=float("nan"))

    return "\n".join(
        f"{problem} to {plain}: {framework} {best(plain, framework) / best(problem, framework):.2f} times the time"
        for problem in results
        if (plain := PROBLEMS[problem].plain) in results
        for framework in ("jax", "torch")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PROBLEMS), help="problems, joined by commas")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--jax", default=",".join(JAX_VARIANTS), help="tuned, plain, tuned-2 (two host devices), ...")
    parser.add_argument("--torch", default="", help="instead of every variant that suits the problem")
    parser.add_argument("--patience", type=float, default=20.0, help="seconds a turn waits for a quiet machine")
    parser.add_argument("--together", action="store_true", help="rounds go through all problems, to compare them")
    parser.add_argument("--output", type=pathlib.Path, help="where to write the results as JSON")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(*options.worker)
    names = {}
    for problem in options.only.split(","):
        suitable = options.torch.split(",") if options.torch else PROBLEMS[problem].torch
        names[problem] = [f"jax {v}" for v in options.jax.split(",")] + [f"torch {v}" for v in suitable if v != "none"]
    results = {}
    for group in [names] if options.together else [{problem: chosen} for problem, chosen in names.items()]:
        measured = measure(group, options.rounds, options.patience)
        print(table(measured, options.rounds), "\n", flush=True)
        results |= measured
    print(penalty_costs(results))
    if options.output:
        options.output.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
