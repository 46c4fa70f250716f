"""How much faster the autoregressive families sample 64 MNIST images than by a whole forward pass for every step.

    python experiments/sampling_speed.py --rounds 5

Both samplers are compiled once and take turns; figures are medians over the rounds. The whole-pass sampler is timed
over the first few of an image's steps (a pixel, or a row of them) where all would take minutes: each is a pass over
the whole image and costs the same, so its time is multiplied to all of them. Both draw from the same keys, so what they
have drawn by then must be the same; the table says how many of these pixels are. Weights are the initial ones: speed
does not depend on them.
"""

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from genimg_jax import core
from genimg_jax.engine import config as configs
from genimg_jax.engine import config_files, parallel, runtime, tasks
from genimg_jax.engine import program as programs
from genimg_jax.errors import exit_code
from genimg_jax.networks.attention import Decoder
from genimg_jax.networks.gated import GatedPixelCNN
from genimg_jax.networks.masked import MaskedMLP
from genimg_jax.networks.recurrent import RecurrentStack

SHAPE, PIXELS = (28, 28), 784
CONFIGS = {  # and the steps of the whole-pass sampler that are timed
    "made": ("configs/made_mnist.py", 784),
    "rnn, row": ("configs/rnn_mnist.py", 28),
    "rnn, pixel": ("configs/rnn_mnist.py:pixel", 16),
    "pixelcnn": ("configs/pixelcnn_mnist.py", 16),
    "transformer": ("configs/transformer_mnist.py:small", 4),
}
Outputs = Callable[[core.Tree, jax.Array], jax.Array]  # (params, image f32[B, 784]) -> [B, 784, logits of a pixel]


def made(model) -> Outputs:
    network = MaskedMLP(PIXELS, 1, model.width, model.depth, model.direct)
    return lambda params, image: network.apply({"params": params}, image, None, jnp.arange(PIXELS))


def rnn(model) -> Outputs:
    steps, size = SHAPE if model.order == "row" else (PIXELS, 1)
    window = model.window
    network = RecurrentStack(model.cell, model.width, model.layers, window * size, size, (SHAPE[0], steps // SHAPE[0]))

    def outputs(params, image):
        sequence = image.reshape(-1, steps, size).swapaxes(0, 1)
        padded = jnp.pad(sequence, ((window, 0), (0, 0), (0, 0)))
        shown = jnp.concatenate([padded[i : i + steps] for i in range(window)], axis=-1)
        return network.apply({"params": params}, shown, None).swapaxes(0, 1).reshape(-1, PIXELS, 1)

    return outputs


def pixelcnn(model) -> Outputs:
    sizes = model.kernel_radius, model.first_kernel_radius, 1, model.positions
    network = GatedPixelCNN(SHAPE, model.features, model.layers, 1, *sizes)
    return lambda p, image: network.apply({"params": p}, image.reshape(-1, *SHAPE, 1), None).reshape(-1, PIXELS, 1)


def transformer(model) -> Outputs:
    network = Decoder(2, SHAPE, model.width, model.depth, model.heads, model.positions)
    return lambda params, image: network.apply({"params": params}, None, (image > 0).astype(jnp.int32))


OUTPUTS = {"made": made, "rnn": rnn, "pixelcnn": pixelcnn, "transformer": transformer}


def whole_passes(outputs: Outputs, size: int, steps: int, weights: core.Weights, index: jax.Array, seed: jax.Array):
    """The first `steps` steps of `size` pixels, each drawn after a forward pass of the whole image."""
    # i32[B], i32[] -> f32[B, steps * size]
    keys = core.per_example_keys(core.stream(seed, "sample"), index)

    def step(place, image):
        logits = jax.lax.dynamic_slice_in_dim(outputs(weights.params["model"], image), place * size, size, axis=1)
        own = core.fold_in(keys, place)
        if logits.shape[-1] == 2:
            upper = jax.vmap(jax.random.categorical)(own, logits)
        else:
            upper = jax.vmap(jax.random.bernoulli)(own, jax.nn.sigmoid(logits[..., 0]))
        return jax.lax.dynamic_update_slice_in_dim(image, 2 * upper.astype(jnp.float32) - 1, place * size, axis=1)

    return jax.lax.fori_loop(0, steps, step, jnp.zeros((len(index), PIXELS)))[:, : steps * size]


def timed(function: Callable[[], jax.Array]) -> tuple[float, np.ndarray]:
    start = time.perf_counter()
    result = jax.block_until_ready(function())
    return time.perf_counter() - start, np.asarray(result)


def measure(name: str, count: int, rounds: int) -> str:
    """A row of the table."""
    path, steps = CONFIGS[name]
    config = configs.resolve(config_files.load(path))
    size = SHAPE[1] if name == "rnn, row" else 1
    total = PIXELS // size
    program = programs.build(config, core.Spec((*SHAPE, 1), 10, 2), 256)
    weights = core.weights(program.init(np.int32(0)))
    index = parallel.put_batch(np.arange(count, dtype=np.int32), program.mesh)
    passes = functools.partial(whole_passes, OUTPUTS[config.family](config.model), size, steps)
    passes = parallel.compile_per_example(passes, program.mesh)
    contenders = (
        lambda: program.apply(tasks.sample_task, weights, {"index": index}, np.int32(0)),
        lambda: passes(weights, index, np.int32(0)),
    )
    (_, images), (_, first) = (timed(c) for c in contenders)
    same = np.mean(images.reshape(count, -1)[:, : first.shape[1]] == first)
    cached, whole = zip(*([timed(c)[0] for c in contenders] for _ in range(rounds)), strict=True)
    cached, scaled = statistics.median(cached), statistics.median(whole) * total / steps
    return (
        f"| {name} | {sum(x.size for x in jax.tree.leaves(weights.params)):,} | {cached:.2f} | {count / cached:.1f} "
        f"| {scaled:.1f} | {scaled / cached:.0f} | {steps} of {total} | {same:.2%} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(CONFIGS), choices=list(CONFIGS))
    parser.add_argument("--count", type=int, default=64, help="images")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--host-devices", type=int, default=1, help="devices that the CPU is shown as")
    options = parser.parse_args()
    said = runtime.prepare(runtime.Options(host_devices=options.host_devices))
    print(f"{options.count} images, {options.rounds} interleaved rounds, {jax.devices()}; {said}\n")
    print(
        "| family | parameters | cached, s | cached, images/s | whole passes, s | ratio | steps timed | same pixels |"
    )
    print("| --- " * 8 + "|")
    for name in options.only:
        print(measure(name, options.count, options.rounds), flush=True)


if __name__ == "__main__":
    sys.exit(exit_code(main))
