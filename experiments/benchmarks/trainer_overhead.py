"""Images a second of the trainer's loop beside the bare compiled step, in turns, as a ratio.

    python experiments/benchmarks/trainer_overhead.py --config configs/vae_digits.py --rounds 5

The trainer's figure is the mean over the windows of its own metrics.jsonl, less the first, which compiles: data,
logging, checkpoints and progress bar included, evaluation and sample grids left out as work of another kind.
"""

import argparse
import pathlib
import statistics
import tempfile
import time

import jax
import numpy as np

from genimg_jax.data import Part, open_source
from genimg_jax.engine import config as configs
from genimg_jax.engine import config_files, parallel, run, training
from genimg_jax.engine import program as programs


def bare(built: programs.Program, batch, steps: int) -> float:
    """Images a second of the compiled step alone, always on the same batch."""
    state, seed = built.init(np.int32(0)), np.int32(0)
    state, _ = built.step(state, batch, seed)
    jax.block_until_ready(state)
    start = time.perf_counter()
    for _ in range(steps):
        state, _ = built.step(state, batch, seed)
    jax.block_until_ready(state)
    return steps * built.config.train.batch_size / (time.perf_counter() - start)


def trained(config: configs.Config, values: dict) -> float:
    """Images a second as the trainer logs them."""
    with tempfile.TemporaryDirectory() as directory:
        training.train(config, values, pathlib.Path(directory))
        lines = [line for line in run.read_metrics(pathlib.Path(directory)) if line["split"] == "train"]
    return statistics.mean(line["images_per_second"] for line in lines[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/vae_digits.py")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    values = config_files.load(options.config)
    values.train.update(steps=options.steps, evaluate_every=0, sample_every=0, best="", checkpoint_every=options.steps)
    config = configs.resolve(values)
    source = open_source(config.data, Part.TRAIN)
    built = programs.build(config, source.spec, source.stored_levels)
    batch = parallel.put_batch(next(programs.train_batches(built, source, 0)), built.mesh)
    rounds = [(bare(built, batch, options.steps), trained(config, values.to_dict())) for _ in range(options.rounds)]
    step, loop = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratio = statistics.median(l / s for s, l in rounds)
    print(f"{options.config}: step {step:.0f} images/s, trainer {loop:.0f} images/s, ratio {ratio:.3f} "
          f"(median of {options.rounds} rounds of {options.steps} steps)")  # fmt: skip


if __name__ == "__main__":
    main()
