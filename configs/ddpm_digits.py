"""DDPM as it was first stated, with a small U-Net, on scikit-learn's 8x8 digits."""

from genimg_jax.engine.config import experiment


def get_config(variant: str = "full"):
    tiny = variant == "tiny"
    return experiment(
        "diffusion",
        model={
            "path": "discrete",
            "target": "noise",
            "weighting": "uniform",
            "times": "discrete_times",
            "solver": "ancestral",
            "grid": "path_times",
            "steps": 3 if tiny else 1000,
            "least": 1e-5,  # the chain's own ends are within these
            "greatest": 1000.0,
            "width": 4 if tiny else 32,
            "multipliers": (1,) if tiny else (1, 2),
            "blocks": 1,
            "evaluate_times": 2 if tiny else 16,
            "likelihood_steps": 4 if tiny else 32,
            "likelihood_probes": 1 if tiny else 4,
        },
        data={"source": "digits"},
        optimizer={"learning_rate": 1e-3, "schedule": "cosine", "ema_half_life": 0.0 if tiny else 10_000.0},
        train={
            "steps": 6 if tiny else 3000,
            "batch_size": 16 if tiny else 64,
            "log_every": 2 if tiny else 50,
            "evaluate_every": 4 if tiny else 500,
            "checkpoint_every": 4 if tiny else 500,
            "sample_every": 4 if tiny else 3000,
            "best": "loss",
        },
    )
