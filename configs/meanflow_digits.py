"""Mean flow, given the class, with a small DiT on scikit-learn's 8x8 digits."""

from genimg_jax.engine.config import experiment


def get_config(variant: str = "full"):
    tiny = variant == "tiny"
    return experiment(
        "meanflow",
        model={
            "network": "dit",
            "patch": 4 if tiny else 2,
            "width": 8 if tiny else 64,
            "depth": 1 if tiny else 4,
            "heads": 1 if tiny else 4,
            "conditional": True,
            "guidance": 1.0 if tiny else 1.5,
            "evaluate_times": 2 if tiny else 16,
            "likelihood_steps": 4 if tiny else 32,
            "likelihood_probes": 1 if tiny else 4,
        },
        data={"source": "digits"},
        optimizer={"learning_rate": 1e-3, "schedule": "cosine", "ema_half_life": 0.0 if tiny else 10_000.0},
        train={
            "steps": 6 if tiny else 6000,
            "batch_size": 16 if tiny else 64,
            "log_every": 2 if tiny else 50,
            "evaluate_every": 4 if tiny else 1000,
            "checkpoint_every": 4 if tiny else 1000,
            "sample_every": 4 if tiny else 2000,
            "best": "loss",
        },
        runtime={"cpu_tuning": False},  # made for convolutions: it slows networks without any
    )
