"""Masked generation with a small DiT on scikit-learn's 8x8 digits, thresholded."""

from genimg_jax.engine.config import SIX_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "masked",
        model={
            "network": "dit",
            "patch": 2,
            "width": 64,
            "depth": 4,
            "heads": 4,
            "conditions": ("label",),
        },
        data={"source": "digits", "binarize": "dynamic"},
        optimizer={"learning_rate": 2e-3, "schedule": "cosine", "warmup_steps": 100, "ema_half_life": 10_000.0},
        train={
            "steps": 3000,
            "batch_size": 64,
            "log_every": 50,
            "evaluate_every": 500,
            "checkpoint_every": 1000,
            "sample_every": 1000,
            "best": "loss",
        },
        runtime={"cpu_tuning": False},  # made for convolutions: it slows networks without any
        variants={
            "tiny": {
                **SIX_STEPS,
                "model": {
                    "patch": 4,
                    "width": 8,
                    "depth": 1,
                    "heads": 1,
                    "registers": 1,
                    "steps": 3,
                    "evaluate_masks": 2,
                    "likelihood_masks": 2,
                },
                "optimizer": {"warmup_steps": 0, "ema_half_life": 0.0},
            }
        },
        variant=variant,
    )
