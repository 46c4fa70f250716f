"""The recipe of configs/gan_mnist.py, chosen on 5,000 training images that are left out for it: loss, weight of its
penalty, and network, each for a GAN that is told classes and for one that is not."""

import pathlib

from genimg_jax.engine.config_files import load
from genimg_jax.sweeps.experiment import experiment
from genimg_jax.sweeps.grid import param, product, seeds, zipped

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


def get_experiment(variant: str = "full"):
    tiny = variant == "tiny"
    losses = zipped(
        param("model.loss", "non_saturating", "relativistic", "hinge"),
        param("model.penalty", "r1", "r1_r2", "r1"),  # both for the relativistic loss, which needs them
    )
    networks = zipped(
        param("model.network", "conv", "residual"),
        param("model.generator_normalization", "batch", "none"),
        param("model.depth", 3, 1),  # residual blocks at each size; convolutional networks have no such choice
    )
    return experiment(
        question="Which loss, weight of the penalty and network make the best GAN of MNIST, with classes and without?",
        base=load(f"{CONFIGS}/gan_mnist.py{':tiny' * tiny}"),
        settings={
            "data.train_split": "train[:55000]",
            "data.validation_split": "none",
            "data.evaluate_split": "train[55000:]",
            "train.steps": 4 if tiny else 1_000,
            "evaluate.features": "classifier",
            "evaluate.classifier_tests": False,
        },
        grid=product(
            param("model.conditions", ("label",), ()),
            networks,
            losses,
            param("model.penalty_weight", *((0.3,) if tiny else (0.1, 0.3, 1.0))),
            seeds(2),
        ),
        metric="frechet_corrected/classifier",
        baseline={
            "model.conditions": ("label",),
            "model.network": "conv",
            "model.loss": "non_saturating",
            "model.penalty_weight": 0.3,
        },
        also=("precision/classifier", "recall/classifier", "class_histogram", "training_minutes"),
        checkpoint="last",
        suite="full",
    )
