"""How evenly does a StyleGAN2 stretch its space of w, and does the path-length penalty help?

    python experiments/path_length.py --workdir runs/stylegan2_shapes_no_penalty runs/stylegan2_shapes

Path lengths are |J^T y| of Karras et al. 2020, section 3.2, of which the penalty lowers the relative deviation. Their
scale is that of w, which each run chooses. The change of pixels has no such scale: the mean squared derivative of a
pixel by t, at a random t in [0, 1] on the line between two w. The perceptual path length of Karras et al. 2019 is the
same of features. Ratios are to the first run. Intervals are 95 %: Student's of means, a jackknife's of deviations, and
of ratios normal on a logarithmic scale.
"""

import argparse
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from style_mixing import cell, layered

from genimg_jax import core
from genimg_jax.engine import config_files, restore, runtime, tasks
from genimg_jax.engine import program as programs
from genimg_jax.errors import exit_code
from genimg_jax.metrics import intervals
from genimg_jax.metrics.intervals import Interval
from genimg_jax.networks.stylegan2 import every_layer
from genimg_jax.objectives.interpolation import linear
from genimg_jax.objectives.path_length import path_lengths

BLOCKS = 20  # of the jackknife


def paths(family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """|J^T y| at a w, and the mean squared derivative of the pixels at a random place between two w."""
    # -> f32[B] x 2
    space, keys = layered(family), core.per_example_keys(key, batch["index"])
    first, second = (space.prior(weights, core.fold_in(keys, i), batch)[:, 0, 0] for i in range(2))

    def synthesize(w: jax.Array) -> jax.Array:  # [B, Z] -> [B, H, W, C]
        return space.decode(weights, every_layer(w, space.spec.image_shape[0])[:, :, None], batch)

    direction = core.normal(core.fold_in(keys, 2), jax.eval_shape(synthesize, first).shape[1:])
    between = linear(first, second, jax.vmap(jax.random.uniform)(core.fold_in(keys, 3)))
    _, derivative = jax.jvp(synthesize, (between,), (second - first,))
    return path_lengths(synthesize, first, direction), jnp.square(derivative).mean((1, 2, 3))


def variation(lengths: np.ndarray) -> Interval:  # [N]
    """Their standard deviation over their mean."""
    blocks = np.array_split(np.arange(len(lengths)), BLOCKS)
    left_out = [np.delete(lengths, block) for block in blocks]
    return intervals.jackknife(lengths.std() / lengths.mean(), np.array([x.std() / x.mean() for x in left_out]))


def ratio(first: Interval, second: Interval) -> Interval:
    """Of two independent positive estimates, by the normal interval of its logarithm."""
    error = np.hypot(*(x.standard_error / x.estimate for x in (first, second)))
    return Interval(*np.exp(intervals.normal(np.log(first.estimate / second.estimate), error)[:3]), error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, nargs="+", required=True)
    parser.add_argument("--checkpoint", default="best")
    parser.add_argument("--count", type=int, default=5000, help="codes of each run")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    runtime.prepare(runtime.Options())
    baseline = None
    print("| run | path length | relative deviation | ratio | change of pixels | ratio |\n" + "| --- " * 6 + "|")
    for workdir in options.workdir:
        run = restore.open_run(workdir, config_files.of_run(workdir), options.checkpoint)
        batches = tasks.condition_batches(run.program, options.count)
        lengths, changes = programs.run(run.program, paths, run.weights, batches, options.count, options.seed)
        found = variation(lengths), intervals.mean(changes)
        cells = [cell(intervals.mean(lengths), ".3g")]
        for each, first in zip(found, baseline or (None, None), strict=True):
            cells += [cell(each, ".3g"), cell(ratio(each, first), ".2f") if first else "-"]
        baseline = baseline or found
        print(f"| {workdir.name}, step {run.step} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    sys.exit(exit_code(main))
