"""A variational diffusion model with a learned schedule on scikit-learn's 8x8 digits: a bound on their likelihood."""

from genimg_jax.engine.config import SIX_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "diffusion",
        model={
            "noise_schedule": "learned",
            "target": "epsilon",
            "weighting": "variational",
            "times": "uniform_times",
            "solver": "ancestral",
            "sigma_schedule": "log_uniform",
            "steps": 100,
            "sigma_min": 1e-5,  # as low as the learned path goes
            "width": 32,
            "multipliers": (1, 2),
            "blocks": 1,
            "evaluate_times": 16,
            "likelihood_steps": 128,
        },
        data={"source": "digits"},
        optimizer={
            "learning_rate": 1e-3,
            "schedule": "cosine",
            "clip_norm": 1.0,
            "ema_half_life": 10_000.0,
        },
        train={
            "steps": 6000,
            "batch_size": 64,
            "log_every": 50,
            "evaluate_every": 1000,
            "checkpoint_every": 1000,
            "sample_every": 2000,
            "best": "loss",
        },
        variants={
            "tiny": {
                **SIX_STEPS,
                "model": {"steps": 3, "width": 4, "multipliers": (1,), "evaluate_times": 2, "likelihood_steps": 4},
                "optimizer": {"ema_half_life": 0.0},
            }
        },
        variant=variant,
    )
