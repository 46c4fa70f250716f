"""A convolutional BiGAN (Donahue et al. 2017) with R1 (Mescheder et al. 2018) and both cycle losses on MNIST, its
generator and its encoder averaged: sized for an hour of two cores.

Prepared data is found in TFDS_DATA_DIR, or where data.path says.
"""

from genimg_jax.engine.config import FOUR_STEPS, experiment


def get_config(variant: str = ""):
    adam = {"learning_rate": 5e-4, "arguments": {"b1": 0.5}}
    return experiment(
        "bigan",
        model={
            "network": "conv",
            "width": 48,
            "joint_width": 256,
            "latent": 32,
            "penalty": "r1",
            "penalty_weight": 0.3,
            "image_cycle": 10.0,
            "code_cycle": 10.0,
        },
        data={"source": "tfds", "name": "mnist"},
        optimizer={"generator": {**adam, "ema_half_life": 10_000.0}, "discriminator": adam},
        train={
            "steps": 16_000,
            "batch_size": 64,
            "log_every": 100,
            "evaluate_every": 2_000,
            "checkpoint_every": 2_000,
            "sample_every": 2_000,
            "samples": 100,
        },
        evaluate={"batch_size": 500},
        variants={
            "tiny": {
                **FOUR_STEPS,
                "model": {"width": 4, "joint_width": 8, "latent": 8},
                "data": {"limit": 64},
                "train": {**FOUR_STEPS["train"], "samples": 16},
            }
        },
        variant=variant,
    )
