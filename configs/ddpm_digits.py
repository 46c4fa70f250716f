"""DDPM as it was first stated, with a small U-Net, on scikit-learn's 8x8 digits."""

from genimg_jax.engine.config import SIX_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "diffusion",
        model={
            "noise_schedule": "discrete",
            "target": "epsilon",
            "weighting": "uniform",
            "times": "discrete_times",
            "solver": "ancestral",
            "sigma_schedule": "schedule_times",
            "steps": 1000,
            "sigma_min": 1e-5,  # the chain's own ends are within these
            "sigma_max": 1000.0,
            "width": 32,
            "multipliers": (1, 2),
            "blocks": 1,
            "evaluate_times": 16,
            "likelihood_steps": 32,
            "likelihood_probes": 4,
        },
        data={"source": "digits"},
        optimizer={"learning_rate": 1e-3, "schedule": "cosine", "ema_half_life": 10_000.0},
        train={
            "steps": 3000,
            "batch_size": 64,
            "log_every": 50,
            "evaluate_every": 500,
            "checkpoint_every": 500,
            "sample_every": 3000,
            "best": "loss",
        },
        variants={
            "tiny": {
                **SIX_STEPS,
                "model": {
                    "steps": 3,
                    "width": 4,
                    "multipliers": (1,),
                    "evaluate_times": 2,
                    "likelihood_steps": 4,
                    "likelihood_probes": 1,
                },
                "optimizer": {"ema_half_life": 0.0},
            }
        },
        variant=variant,
    )
