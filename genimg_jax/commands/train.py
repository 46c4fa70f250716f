"""genimg train --config configs/vae_digits.py --workdir runs/vae_digits"""

from collections.abc import Sequence

from absl import flags

from genimg_jax.commands import command_line

ABOUT = """train a family from a config file. The same command resumes where it was cut.

  genimg train --config configs/vae_digits.py --workdir runs/vae_digits
  genimg train --config configs/vae_mnist.py:tiny --workdir runs/tiny --config.optimizer.learning_rate=3e-4

Exit codes: 0 done, 2 usage or configuration, 3 data, 4 checkpoint, 5 not finite, 6 resources,
75 interrupted and saved."""


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "directory of the run, made if need be (required)", flag_values=values)
    flags.DEFINE_bool("force_resume", False, "go on from a checkpoint of another configuration", flag_values=values)
    flags.DEFINE_bool("dry_run", False, "compile, print bytes a device, and stop", flag_values=values)


def main(arguments: Sequence[str]) -> None:
    values = command_line.parse("train", ABOUT, define, arguments, config="file")
    workdir = command_line.workdir(values)
    from genimg_jax.engine import config as configs
    from genimg_jax.engine import runtime

    config = configs.resolve(values.config)
    print(runtime.prepare(config.runtime))
    from genimg_jax.engine import training

    if values.dry_run:
        print(training.dry_run(config))
        return
    training.train(config, values.config.to_dict(), workdir, values.force_resume)
    print(f"run: {workdir}\nnext: genimg evaluate --workdir {workdir}")
