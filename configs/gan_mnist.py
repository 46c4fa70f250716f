"""A class-conditional convolutional GAN (DCGAN, Radford et al. 2016) with R1 (Mescheder et al. 2018) on MNIST, its
generator averaged: 22 minutes of one core.

Prepared data is found in TFDS_DATA_DIR, or where data.path says.
"""

from genimg_jax.engine.config import FOUR_STEPS, experiment


def get_config(variant: str = ""):
    adam = {"learning_rate": 1e-3, "arguments": {"b1": 0.5}}
    return experiment(
        "gan",
        model={
            "network": "conv",
            "width": 48,
            "latent": 64,
            "penalty": "r1",
            "penalty_weight": 0.3,
            "conditions": ("label",),
        },
        data={"source": "tfds", "name": "mnist"},
        optimizer={"generator": {**adam, "ema_half_life": 40_000.0}, "discriminator": adam},
        train={
            "steps": 12_000,
            "batch_size": 64,
            "log_every": 100,
            "evaluate_every": 4_000,
            "checkpoint_every": 4_000,
            "sample_every": 2_000,
            "samples": 100,
        },
        evaluate={"batch_size": 500},
        variants={
            "tiny": {
                **FOUR_STEPS,
                "model": {"width": 4, "latent": 8},
                "data": {"limit": 64},
                "train": {**FOUR_STEPS["train"], "samples": 16},
            }
        },
        variant=variant,
    )
