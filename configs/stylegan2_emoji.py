"""A small StyleGAN2 (Karras et al. 2020) on 64x64 colour emoji, an image folder, for an hour of two cores.

Give the folder: --config.data.path=PATH/emoji64
"""

from genimg_jax.engine.config import FOUR_STEPS, experiment


def get_config(variant: str = ""):
    adam = {"learning_rate": 2e-3, "arguments": {"b1": 0.0, "b2": 0.99}}
    return experiment(
        "stylegan2",
        model={
            "width": 8,
            "max_width": 96,
            "latent": 64,
            "mapping_depth": 4,
            "penalty_weight": 0.3,
        },
        data={"source": "folder", "path": "emoji64"},
        optimizer={"generator": {**adam, "ema_half_life": 10_000.0}, "discriminator": adam},
        train={
            "steps": 6_000,
            "batch_size": 32,
            "log_every": 50,
            "evaluate_every": 1_000,
            "checkpoint_every": 1_000,
            "sample_every": 1_000,
            "samples": 100,
        },
        evaluate={"batch_size": 90},
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
