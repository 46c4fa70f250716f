"""A class-conditional StyleGAN2 (Karras et al. 2020) on scikit-learn's 8x8 digits."""

from genimg_jax.engine.config import SIX_STEPS, experiment


def get_config(variant: str = ""):
    adam = {"learning_rate": 2e-3, "arguments": {"b1": 0.0, "b2": 0.99}}
    return experiment(
        "stylegan2",
        model={
            "width": 32,
            "max_width": 64,
            "latent": 32,
            "mapping_depth": 4,
            "penalty_weight": 0.1,
            "conditions": ("label",),
        },
        data={"source": "digits"},
        optimizer={"generator": {**adam, "ema_half_life": 10_000.0}, "discriminator": adam},
        train={
            "steps": 4000,
            "batch_size": 64,
            "log_every": 50,
            "evaluate_every": 1000,
            "checkpoint_every": 1000,
            "sample_every": 1000,
            "samples": 100,
        },
        variants={
            "tiny": {
                "model": {"width": 4, "max_width": 8, "latent": 8, "mapping_depth": 2, "mapping_rate": 1.0},
                "train": {**SIX_STEPS["train"], "samples": 16},
            }
        },
        variant=variant,
    )
