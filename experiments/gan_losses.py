"""Which adversarial loss and which penalty make the better GAN of digits, each with the other."""

import pathlib

from genimg_jax.engine.config_files import load
from genimg_jax.sweeps.experiment import experiment
from genimg_jax.sweeps.grid import param, product, seeds, zipped

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


def get_experiment(variant: str = "full"):
    tiny = variant == "tiny"
    losses = ("non_saturating", "hinge") if tiny else ("non_saturating", "least_squares", "hinge", "wasserstein")
    penalties = zipped(
        param("model.penalty", "none", "r1", "gradient_penalty"),
        param("model.penalty_weight", 0.0, 1.0, 10.0),  # as in the papers, where there is one
    )
    return experiment(
        question="Which adversarial loss and which penalty make the better GAN of digits?",
        base=load(f"{CONFIGS}/gan_digits.py{':tiny' * tiny}"),
        settings={
            "train.steps": 6 if tiny else 3000,
            "evaluate.samples": 1000,
            "evaluate.features": "classifier",
            "evaluate.classifier_tests": False,
        },
        grid=product(param("model.loss", *losses), penalties, seeds(2 if tiny else 5)),
        metric="kernel/classifier",
        baseline={"model.loss": "non_saturating", "model.penalty": "none"},
        also=("precision/classifier", "recall/classifier"),
        checkpoint="last",
        suite="full",
    )
