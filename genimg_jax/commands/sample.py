"""genimg sample --workdir runs/vae_digits --count 64"""

from collections.abc import Sequence

import numpy as np
from absl import flags

from genimg_jax.commands import command_line
from genimg_jax.options import absolute

ABOUT = """images of a run: DIRECTORY/grid.png, DIRECTORY/000000.png ..., DIRECTORY/images.npz.

  genimg sample --workdir runs/vae_digits --count 64
  genimg sample --workdir runs/gan_digits --count 16 --label 3 --seed 7
  genimg sample --workdir runs/vae_digits --interpolate 8 --steps 10
  genimg sample --workdir runs/vq_digits --reconstruct 32
  genimg sample --workdir runs/diffusion_digits --relative_std 0.15

Image i of a seed is the same whatever the count and the batch size."""


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "directory of the run (required)", flag_values=values)
    flags.DEFINE_string("checkpoint", "best", "best, last, or a step", flag_values=values)
    flags.DEFINE_bool("averaged", True, "the moving average of the weights, where there is one", flag_values=values)
    flags.DEFINE_float(
        "relative_std", None, "another width of the averages that optimizer.ema_relative_stds kept", flag_values=values
    )
    flags.DEFINE_integer("count", 64, "number of images", lower_bound=1, flag_values=values)
    flags.DEFINE_integer(
        "seed", None, "which set of images; the run's own if not given", 0, 2**31 - 1, flag_values=values
    )
    flags.DEFINE_integer("label", None, "one class; each in turn if not given", flag_values=values)
    flags.DEFINE_integer("interpolate", 0, "rows of interpolations between pairs of codes", 0, flag_values=values)
    flags.DEFINE_integer("reconstruct", 0, "held-out images, above what their codes give", 0, flag_values=values)
    flags.DEFINE_integer("steps", 10, "images in a row of interpolations", lower_bound=2, flag_values=values)
    flags.DEFINE_string("out", "", "directory; WORKDIR/generated/NAME if not given", flag_values=values)
    flags.DEFINE_bool("singles", True, "also write each image to a PNG of its own", flag_values=values)


def main(arguments: Sequence[str]) -> None:
    values = command_line.parse("sample", ABOUT, define, arguments, config="workdir")
    workdir = command_line.workdir(values)
    import pathlib

    from genimg_jax.engine import config as configs
    from genimg_jax.engine import runtime

    print(runtime.prepare(configs.resolve(values.config).runtime))
    from genimg_jax.data import Part, classes, open_source
    from genimg_jax.engine import averaging, images, restored
    from genimg_jax.engine import program as programs
    from genimg_jax.engine.run import check_writable

    out = pathlib.Path(absolute(values.out)) if values.out else workdir / "generated"
    check_writable(out, "choose another --out")
    run = restored.open_run(workdir, values.config.to_dict(), values.checkpoint, values.averaged)
    if values.relative_std is not None:
        run = run._replace(weights=averaging.reconstruct(workdir, run.program, run.step, values.relative_std))
    seed = run.program.config.seed if values.seed is None else values.seed
    condition = {}
    if values.interpolate:
        name, columns = f"interpolations-{run.step}-seed{seed}", values.steps
        made = programs.interpolate(run.program, run.weights, values.interpolate, values.steps, seed, values.label)
    elif values.reconstruct:
        name, columns = f"reconstructions-{run.step}", programs.COLUMNS
        source = open_source(run.program.config.data, Part.EVALUATE)
        made = programs.reconstruct(run.program, run.weights, source, values.reconstruct)
    else:
        name = f"samples-{run.step}-seed{seed}"
        columns = programs.sample_columns(run.program, values.count, values.label)
        made = programs.sample(run.program, run.weights, values.count, seed, values.label)
        condition = programs.condition_for(run.program, np.arange(values.count), values.label)
        if "label" in condition:  # runs of earlier versions do not say what their classes are called
            names = run.dataset.get("classes") or list(map(str, range(run.program.spec.num_classes)))
            condition = classes.as_stored(condition["label"], names)
    if values.label is not None:
        name += f"-class{values.label}"
    out = out if values.out else out / name
    out.mkdir(parents=True, exist_ok=True)
    pictures = images.to_uint8(made)
    images.save_png(out / "grid.png", images.grid(pictures, columns))
    np.savez_compressed(out / "images.npz", image=pictures, **condition)
    if values.singles:
        for i, picture in enumerate(pictures):
            images.save_png(out / f"{i:06d}.png", picture)
    print(f"{len(pictures)} images of step {run.step}: {out}\ngrid: {out / 'grid.png'}")
