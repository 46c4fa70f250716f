"""What augmentations are worth to a GAN of 500 images of MNIST: none, those of DiffAugment (Zhao et al. 2020), and
adaptive ones (ADA, Karras et al. 2020)."""

import pathlib

from genimg_jax.engine.config_files import load
from genimg_jax.sweeps.experiment import experiment
from genimg_jax.sweeps.grid import param, product, seeds

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


def get_experiment(variant: str = "full"):
    tiny = variant == "tiny"
    return experiment(
        question="What are augmentations worth to a GAN of 500 images?",
        base=load(f"{CONFIGS}/gan_mnist.py{':tiny' * tiny}"),
        settings={
            # Not data.limit, which would leave as few images to compare with.
            "data.train_split": "train[:500]",
            "data.validation_split": "train[55000:]",
            "model.ada_images": 100_000,  # of 256,000 that are seen
            "train.steps": 4 if tiny else 4_000,
            "evaluate.samples": 5_000,
            "evaluate.features": "classifier",
            "evaluate.classifier_tests": False,
        },
        grid=product(param("model.augmentation", "none", "diffaugment", "ada"), seeds(2 if tiny else 5)),
        metric="frechet_corrected/classifier",
        baseline={"model.augmentation": "none"},
        also=("precision/classifier", "recall/classifier", "copies/classifier"),
        checkpoint="last",
        suite="full",
    )
