"""A small StyleGAN2 (Karras et al. 2020) on 32x32 procedural scenes, for an hour of two cores.

Without conditions: the class and the colours are for its styles to find.
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
        },
        data={"source": "shapes", "shapes": {"count": 40_000}},
        optimizer={"generator": {**adam, "ema_half_life": 10_000.0}, "discriminator": adam},
        train={
            "steps": 8_000,
            "batch_size": 32,
            "log_every": 50,
            "evaluate_every": 1_000,
            "checkpoint_every": 1_000,
            "sample_every": 1_000,
            "samples": 100,
        },
        variants={
            "tiny": {
                **FOUR_STEPS,
                "model": {"width": 4, "max_width": 8, "latent": 8, "mapping_depth": 2},
                "data": {"shapes": {"count": 200}},
                "train": {**FOUR_STEPS["train"], "samples": 16},
            }
        },
        variant=variant,
    )
