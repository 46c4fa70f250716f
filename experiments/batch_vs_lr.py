"""Which learning rate suits which batch size, after the same number of images."""

import pathlib

from genimg_jax.engine.config_files import load
from genimg_jax.sweeps.experiment import experiment
from genimg_jax.sweeps.grid import param, product, seeds, zipped

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


def get_experiment(variant: str = "full"):
    tiny = variant == "tiny"
    images, sizes = (96, (8, 16)) if tiny else (256_000, (32, 128, 512))
    steps = [images // size for size in sizes]
    return experiment(
        question="Which learning rate suits which batch size, after the same number of images?",
        base=load(f"{CONFIGS}/vae_digits.py{':tiny' * tiny}"),
        settings={"train.best": ""},  # the last checkpoint: of more steps the best is the best of more
        grid=product(
            zipped(
                param("train.batch_size", *sizes),
                param("train.steps", *steps),
                param("train.evaluate_every", *(max(n // 8, 1) for n in steps)),
                param("train.log_every", *(max(n // 40, 1) for n in steps)),
            ),
            param("optimizer.learning_rate", 3e-4, 1e-3, 3e-3, 1e-2),
            seeds(2 if tiny else 5),
        ),
        metric="negative_log_likelihood",
        baseline={"train.batch_size": sizes[1], "optimizer.learning_rate": 1e-3},
        checkpoint="last",
    )
