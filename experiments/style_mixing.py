"""Which layers of a StyleGAN2 of scenes decide what is drawn, and which its colours?

    python experiments/style_mixing.py --workdir runs/stylegan2_shapes

Of pairs of samples A and B, the layers before layer k take the w of A and the others that of B. Scenes are read from
pixels; a pair counts if both are read as scenes of the data, whose drawings differ from the samples by at most
`--residual` levels of 255 (root mean square). A mixture has the kinds of A if each object has them and there are no
others, its places if each centre is within 1/16 of the side, its relation if A has two objects. It has the colours of B
if the background and each object that both A and B have show them.

At k = 0 the mixture is B, and at the last k it is A: what is kept there is chance. Intervals are Wilson's, of 95 %.
Written: a picture of pairs, a row each.
"""

import argparse
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from genimg_jax import core
from genimg_jax.engine import config_files, images, restore, runtime, tasks
from genimg_jax.engine import program as programs
from genimg_jax.engine.restore import Restored
from genimg_jax.errors import ConfigError, exit_code
from genimg_jax.evaluation import scene_reader
from genimg_jax.metrics.classifier_tests import proportion
from genimg_jax.metrics.intervals import Interval

Scenes = dict[str, np.ndarray]
NEAR = 1 / 16  # of the side


def layered(family: core.Family) -> core.Latents:
    """The space of w, [layers, 1, Z]."""
    space = core.space_with(family, "prior", "layered")
    if space is None:
        raise ConfigError("this family has no code for each layer; name a run of stylegan2.")
    return space


def mix(family: core.Family, weights: core.Weights, batch: core.Batch, key: jax.Array) -> jax.Array:
    """Image i has the first k = i % (layers + 1) layers of one code of its pair, and the others of the other."""
    space = layered(family)
    layers = space.spec.image_shape[0]
    pair, k = batch["index"] // (layers + 1), batch["index"] % (layers + 1)
    first, second = (space.prior(weights, core.per_example_keys(key, 2 * pair + i), batch) for i in range(2))
    coarse = jnp.arange(layers)[None] < k[:, None]
    return space.decode(weights, jnp.where(coarse[:, :, None, None], first, second), batch)


def readable(scene: Scenes, residual: float) -> np.ndarray:  # -> bool[N]
    """Whether a scene is as the data draws them: a large object and at most a small one, drawn as they were read."""
    count, large = (scene["kind"] >= 0).sum(axis=1), scene["radius"] >= scene_reader.LARGE
    return (scene["residual"] <= residual) & np.isin(count, (1, 2)) & large[:, 0] & ~large[:, 1]


def kept(mixed: Scenes, first: Scenes, second: Scenes) -> dict[str, np.ndarray]:  # -> {name: bool[n]}
    """What mixtures have of the layout of the first scenes, and of the colours of the second ones."""
    present, both = first["kind"] >= 0, (first["kind"] >= 0) & (second["kind"] >= 0)
    kinds = (mixed["kind"] == first["kind"]).all(axis=1)
    near = np.linalg.norm(mixed["centre"] - first["centre"], axis=2) <= NEAR
    places = ((near & (mixed["kind"] >= 0)) | ~present).all(axis=1)
    relation = mixed["relation"][:, 0] == first["relation"][:, 0]
    layout = kinds & places & relation
    objects = ((mixed["colour"] == second["colour"]) | ~both).all(axis=1)
    background = mixed["background"] == second["background"]
    return {
        "kinds": kinds,
        "places": places,
        "relation": relation[present[:, 1]],
        "**layout of A**": layout,
        "objects' colours": objects,
        "background": background,
        "**colours of B**": objects & background,
        "both": layout & objects & background,
    }


def cell(found: Interval, form: str) -> str:
    return f"{found.estimate:{form}} [{found.low:{form}}, {found.high:{form}}]"


def mixing(run: Restored, pairs: int, seed: int, residual: float, picture: pathlib.Path) -> None:
    """Prints the table of a run, and writes a picture: pairs by row, from B to A."""
    columns = layered(run.program.family).spec.image_shape[0] + 1
    batches = tasks.condition_batches(run.program, pairs * columns, example=lambda index: index // columns)
    drawn = images.to_uint8(programs.run(run.program, mix, run.weights, batches, pairs * columns, seed))
    images.save_png(picture, images.grid(drawn[: 12 * columns], columns))
    scenes = {name: x.reshape(pairs, columns, *x.shape[1:]) for name, x in scene_reader.read(drawn).items()}
    at = [{name: x[:, k] for name, x in scenes.items()} for k in range(columns)]
    chosen = readable(at[0], residual) & readable(at[-1], residual)
    print(f"{chosen.sum()} of {pairs} pairs are read\n")
    if not chosen.any():
        return
    at = [{name: x[chosen] for name, x in scene.items()} for scene in at]
    rows = [kept(scene, at[-1], at[0]) for scene in at]
    print(f"| k | {' | '.join(rows[0])} |\n{'| --- ' * (1 + len(rows[0]))}|")
    for k, row in enumerate(rows):
        shares = [cell(proportion(x.sum(), len(x)), ".1%") if len(x) else "-" for x in row.values()]
        print(f"| {k} | {' | '.join(shares)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--checkpoint", default="best")
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--residual", type=float, default=16.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("experiments/results"))
    options = parser.parse_args()
    runtime.prepare(runtime.Options())
    options.out.mkdir(parents=True, exist_ok=True)
    workdir = options.workdir
    run = restore.open_run(workdir, config_files.of_run(workdir), options.checkpoint)
    print(f"{workdir}, step {run.step}, seed {options.seed}: ", end="")
    mixing(run, options.pairs, options.seed, options.residual, options.out / f"style_mixing_{workdir.name}.png")


if __name__ == "__main__":
    sys.exit(exit_code(main))
