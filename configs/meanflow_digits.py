"""Mean flow, given the class, with a small DiT on scikit-learn's 8x8 digits."""

from genimg_jax.engine.config import SIX_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "meanflow",
        model={
            "network": "dit",
            "patch": 2,
            "width": 64,
            "depth": 4,
            "heads": 4,
            "conditions": ("label",),
            "guidance": 1.5,
            "evaluate_times": 16,
            "likelihood_steps": 32,
            "likelihood_probes": 4,
        },
        data={"source": "digits"},
        optimizer={"learning_rate": 1e-3, "schedule": "cosine", "ema_half_life": 10_000.0},
        train={
            "steps": 6000,
            "batch_size": 64,
            "log_every": 50,
            "evaluate_every": 1000,
            "checkpoint_every": 1000,
            "sample_every": 2000,
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
                    "guidance": 1.0,
                    "evaluate_times": 2,
                    "likelihood_steps": 4,
                    "likelihood_probes": 1,
                },
                "optimizer": {"ema_half_life": 0.0},
            }
        },
        variant=variant,
    )
