"""A class-conditional convolutional GAN on CIFAR-10: hinge loss, spectral normalisation (Miyato et al. 2018).

Prepared data is found in TFDS_DATA_DIR, or where data.path says.
"""

from genimg_jax.engine.config import FOUR_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "gan",
        model={
            "network": "conv",
            "width": 64,
            "latent": 128,
            "loss": "hinge",
            "spectral": True,
            "conditions": ("label",),
        },
        data={"source": "tfds", "name": "cifar10", "flip": True},
        optimizer={
            "generator": {"learning_rate": 2e-4, "arguments": {"b1": 0.5}, "ema_half_life": 20_000.0},
            "discriminator": {"learning_rate": 2e-4, "arguments": {"b1": 0.5}},
        },
        train={
            "steps": 100_000,
            "batch_size": 64,
            "log_every": 100,
            "evaluate_every": 5_000,
            "checkpoint_every": 5_000,
            "sample_every": 5_000,
            "samples": 100,
        },
        evaluate={"batch_size": 500},
        variants={
            "tiny": {
                **FOUR_STEPS,
                "model": {"width": 4, "latent": 8},
                "data": {"limit": 64},
                "train": {**FOUR_STEPS["train"], "samples": 20},
            }
        },
        variant=variant,
    )
