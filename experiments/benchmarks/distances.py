"""Time and memory of the whole suite of distances, this project beside torch-fidelity, on the same features.

    python experiments/benchmarks/distances.py --samples 10000,50000 --rounds 3 --output distances.json

Features are made up: correlated, skewed and not negative, as those of Inception are. A turn is a process of its own,
which reads them and computes everything once, compilation included and imports not; contenders take turns, each while
the other waits. Wall time is what a user waits for on a quiet machine; processor time also says something on a busy
one.
Ours is all that `genimg evaluate` computes of one network's features: Frechet with the interval of its jackknife,
kernel over all pairs, precision, recall, density, coverage, sliced, and Vendi of either set; theirs Frechet, kernel
over 100 subsets of 1,000, precision and recall, without an interval of Frechet. Needs the parity extra.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
from training_step import DISTURBED, busy_seconds, own_seconds, wait_for_quiet

from genimg_jax.progress import bar

CONTENDERS = ("genimg_jax", "torch-fidelity")
K = 3  # neighbours of precision and recall


def features(samples: int, width: int, seed: int, shift: float) -> np.ndarray:  # -> f32[N, D]
    common, own = np.random.default_rng(0), np.random.default_rng(seed)
    scale = 3 * np.exp(-5 * np.arange(width) / width)  # a few directions hold most of the variance
    mixing = (common.normal(size=(width, width)) / np.sqrt(width) * scale).astype(np.float32)
    made = own.normal(shift, 1, size=(samples, width)).astype(np.float32) @ mixing
    return np.maximum(made, 0, out=made)


def ours(generated: np.ndarray, reference: np.ndarray, measured: Callable) -> None:
    from genimg_jax.evaluation.distances import BLOCKS, DIRECTIONS
    from genimg_jax.metrics.diversity import vendi_score
    from genimg_jax.metrics.frechet import frechet_replicates
    from genimg_jax.metrics.intervals import jackknife
    from genimg_jax.metrics.pair_scores import pair_scores
    from genimg_jax.metrics.sliced import sliced_distance

    def frechet() -> dict:
        distance, replicates = frechet_replicates(generated, reference, BLOCKS)
        interval = jackknife(distance, replicates)
        return {"frechet": distance, "corrected": interval.estimate, "low": interval.low, "high": interval.high}

    def pairs() -> dict:
        kernel, (first, second) = pair_scores(generated, reference, (K, 5))
        return {"kernel": kernel.estimate, "precision": first.precision, "recall": first.recall,
                "density": second.density, "coverage": second.coverage}  # fmt: skip

    measured("frechet with interval", frechet)
    measured("pairs", pairs)
    measured("sliced", lambda: {"sliced": sliced_distance(generated, reference, DIRECTIONS).estimate})
    measured("vendi", lambda: {"vendi": vendi_score(generated), "of the reference": vendi_score(reference)})


def theirs(generated: np.ndarray, reference: np.ndarray, measured: Callable) -> None:
    import torch
    from torch_fidelity import metric_fid, metric_kid, metric_prc

    sets = [torch.from_numpy(one) for one in (generated, reference)]
    # By default it holds all distances, and puts them together from parts: too much for most machines at 50,000.
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    in_parts = 3 * 4 * len(generated) * len(reference) > memory
    quiet = {"verbose": False}

    def frechet() -> dict:
        statistics = [metric_fid.fid_features_to_statistics(one) for one in sets]
        return {"frechet": metric_fid.fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]}

    def kernel() -> dict:
        found = metric_kid.kid_features_to_metric(*sets, kid_subset_size=min(1000, *map(len, sets)), **quiet)
        return {"kernel": found["kernel_inception_distance_mean"]}

    def manifold() -> dict:
        found = metric_prc.prc_features_to_metric(*sets, prc_neighborhood=K, save_cpu_ram=in_parts, **quiet)
        return {"precision": found["precision"], "recall": found["recall"], "in parts": in_parts}

    measured("frechet", frechet)
    measured("kernel", kernel)
    measured("precision and recall", manifold)


def peak_gib() -> float:
    """Of this process's resident set. Not getrusage's, which begins with that of the process that started it."""
    return next(int(line.split()[1]) for line in pathlib.Path("/proc/self/status").open() if "VmHWM" in line) / 2**20


def take_turn(contender: str, folder: pathlib.Path) -> None:
    """A turn's own process: prints seconds by part, values, and the peak resident set."""
    sets = [np.load(folder / f"{name}.npy") for name in ("generated", "reference")]
    if contender == CONTENDERS[0]:
        import jax

        jax.devices()
    else:
        import torch_fidelity.metric_prc  # noqa: F401, outside of the time
    parts, values = {}, {}

    def measured(name: str, compute: Callable[[], dict]) -> None:
        own, start = own_seconds(), time.perf_counter()
        values.update(compute())
        parts[name] = {"seconds": time.perf_counter() - start, "processor_seconds": own_seconds() - own}

    busy, own, start = busy_seconds(), own_seconds(), time.perf_counter()
    (ours if contender == CONTENDERS[0] else theirs)(*sets, measured)
    busy, own, seconds = busy_seconds() - busy, own_seconds() - own, time.perf_counter() - start
    foreign = (busy - own) / (seconds * os.cpu_count())
    print(json.dumps({"seconds": seconds, "processor_seconds": own, "peak_gib": peak_gib(), "foreign": foreign,
                      "parts": parts, "values": values}))  # fmt: skip


def measure(samples: int, width: int, rounds: int, patience: float) -> dict:
    """{contender: {seconds, processor_seconds, peak_gib, turns}}; medians over turns."""
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place)
        for seed, (name, shift) in enumerate({"generated": 0.1, "reference": 0.0}.items(), 1):
            np.save(folder / f"{name}.npy", features(samples, width, seed, shift))
        turns = {contender: [] for contender in CONTENDERS}
        order = [contender for _ in range(rounds) for contender in CONTENDERS]
        for contender in bar(f"{samples} x {width}", iterable=order, unit="turn"):
            wait_for_quiet(time.monotonic() + patience)
            command = [sys.executable, __file__, "--worker", contender, place]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            turns[contender].append(json.loads(done.stdout.splitlines()[-1]))
    summary = ("seconds", "processor_seconds", "peak_gib", "foreign")
    return {
        contender: {**{key: statistics.median(t[key] for t in taken) for key in summary}, "turns": taken}
        for contender, taken in turns.items()
    }


def table(results: dict) -> str:
    """The results as Markdown, each of ours also as a ratio to theirs."""
    lines = [
        f"{os.cpu_count()} cores. Ratios are medians over rounds of ours to theirs in the same round.",
        "",
        "| features | | seconds | processor seconds | peak GiB | others' share of the machine | seconds by part |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for size, found in results.items():
        for contender, row in found.items():
            last = row["turns"][-1]["parts"]
            parts = ", ".join(f"{name} {part['seconds']:.1f}" for name, part in last.items())
            disturbed = f"{row['foreign']:.0%}" + " (disturbed)" * (row["foreign"] >= DISTURBED)
            lines.append(
                f"| {size} | {contender} | {row['seconds']:.1f} | {row['processor_seconds']:.1f} | "
                f"{row['peak_gib']:.2f} | {disturbed} | {parts} |"
            )
        pairs = list(zip(*(found[contender]["turns"] for contender in CONTENDERS), strict=True))
        ratios = {
            key: statistics.median(a[key] / b[key] for a, b in pairs)
            for key in ("seconds", "processor_seconds", "peak_gib")
        }
        lines.append(f"| {size} | ratio | {' | '.join(f'{ratio:.2f}' for ratio in ratios.values())} | | |")
        values = [found[contender]["turns"][-1]["values"] for contender in CONTENDERS]
        same = ", ".join(f"{k} {values[0][k]:.5g} and {values[1][k]:.5g}" for k in values[0] if k in values[1])
        lines += ["", f"{size}: {same}.", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", default="10000,50000", help="of either set, joined by commas")
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--patience", type=float, default=20.0, help="seconds a turn waits for a quiet machine")
    parser.add_argument("--output", type=pathlib.Path, help="where to write the results as JSON")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return take_turn(options.worker[0], pathlib.Path(options.worker[1]))
    results = {}
    for samples in map(int, options.samples.split(",")):
        size = f"{samples} x {options.width}"
        results[size] = measure(samples, options.width, options.rounds, options.patience)
        print(table({size: results[size]}), flush=True)
        if options.output:
            options.output.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
