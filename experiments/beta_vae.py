"""What a VAE of digits gives up for a larger beta (Higgins et al. 2017): likelihood, reconstruction, use of codes."""

import pathlib

from genimg_jax.engine.config_files import load
from genimg_jax.sweeps.experiment import experiment
from genimg_jax.sweeps.grid import param, product, seeds

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


def get_experiment(variant: str = "full"):
    tiny = variant == "tiny"
    return experiment(
        question="What does a VAE of digits give up for a larger beta?",
        base=load(f"{CONFIGS}/vae_digits.py{':tiny' * tiny}"),
        grid=product(
            param("model.beta", 1.0, 4.0) if tiny else param("model.beta", 0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
            seeds(2 if tiny else 5),
        ),
        metric="negative_log_likelihood",
        baseline={"model.beta": 1.0},
        also=("reconstruction", "kl"),
    )
