"""A real NVP on scikit-learn's 8x8 digits in their 17 levels. A minute on two cores."""

from genimg_jax.engine.config import SIX_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "realnvp",
        model={"couplings": 12, "width": 128, "depth": 2, "alpha": 0.01, "scale_limit": 0.7},
        data={"source": "digits"},
        optimizer={
            "name": "adamw",
            "arguments": {"weight_decay": 1.5},  # of so few images it would else learn many by heart
            "learning_rate": 1e-3,
            "schedule": "cosine",
            "clip_norm": 100.0,
            "ema_half_life": 10_000.0,
        },
        train={
            "steps": 3000,
            "batch_size": 128,
            "log_every": 50,
            "evaluate_every": 500,
            "checkpoint_every": 500,
            "sample_every": 1000,
            "best": "loss",
        },
        runtime={"cpu_tuning": False},  # made for convolutions: it slows networks without any
        variants={
            "tiny": {
                **SIX_STEPS,
                "model": {"couplings": 2, "width": 16, "depth": 1, "evaluate_draws": 2},
                "optimizer": {"ema_half_life": 0.0},
            }
        },
        variant=variant,
    )
