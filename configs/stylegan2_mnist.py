"""A small class-conditional StyleGAN2 (Karras et al. 2020) on MNIST, for an hour of two cores.

Prepared data is found in TFDS_DATA_DIR, or where data.path says.
"""

from genimg_jax.engine.config import FOUR_STEPS, experiment


def get_config(variant: str = ""):
    adam = {"learning_rate": 2e-3, "arguments": {"b1": 0.0, "b2": 0.99}}
    return experiment(
        "stylegan2",
        model={
            "width": 16,
            "max_width": 64,
            "latent": 64,
            "mapping_depth": 4,
            "penalty_weight": 0.1,
            "conditions": ("label",),
        },
        data={"source": "tfds", "name": "mnist"},
        optimizer={"generator": {**adam, "ema_half_life": 10_000.0}, "discriminator": adam},
        train={
            "steps": 12_000,
            "batch_size": 32,
            "log_every": 50,
            "evaluate_every": 1_000,
            "checkpoint_every": 1_000,
            "sample_every": 1_000,
            "samples": 100,
        },
        evaluate={"batch_size": 500},
        variants={
            "tiny": {
                **FOUR_STEPS,
                "model": {"width": 4, "max_width": 8, "latent": 8, "mapping_depth": 2},
                "data": {"limit": 64},
                "train": {**FOUR_STEPS["train"], "samples": 16},
            }
        },
        variant=variant,
    )
