"""A variational diffusion model with a learned schedule on scikit-learn's 8x8 digits: a bound on their likelihood."""

from genimg_jax.engine.config import experiment


def get_config(variant: str = "full"):
    tiny = variant == "tiny"
    return experiment(
        "diffusion",
        model={
            "path": "learned",
            "target": "noise",
            "weighting": "variational",
            "times": "uniform_times",
            "solver": "ancestral",
            "grid": "log_uniform",
            "steps": 3 if tiny else 100,
            "least": 1e-5,  # as low as the learned path goes
            "width": 4 if tiny else 32,
            "multipliers": (1,) if tiny else (1, 2),
            "blocks": 1,
            "evaluate_times": 2 if tiny else 16,
            "likelihood_steps": 4 if tiny else 128,
        },
        data={"source": "digits"},
        optimizer={
            "learning_rate": 1e-3,
            "schedule": "cosine",
            "clip_norm": 1.0,
            "ema_half_life": 0.0 if tiny else 10_000.0,
        },
        train={
            "steps": 6 if tiny else 6000,
            "batch_size": 16 if tiny else 64,
            "log_every": 2 if tiny else 50,
            "evaluate_every": 4 if tiny else 1000,
            "checkpoint_every": 4 if tiny else 1000,
            "sample_every": 4 if tiny else 2000,
            "best": "loss",
        },
    )
