"""A convolutional VAE of scikit-learn's 8x8 digits with a grid of 4x4 codes: what configs/latent_diffusion_digits.py
is trained over. Its codes need not be normally distributed, only smooth: the KL divergence weighs little."""

from genimg_jax.engine.config import SIX_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "vae",
        model={
            "network": "grid",
            "width": 32,
            "depth": 1,
            "latent": 2,
            "likelihood": "discretized_logistic",
            "beta": 0.3,
            "evaluate_samples": 100,
        },
        data={"source": "digits"},
        optimizer={"learning_rate": 2e-3, "schedule": "cosine", "clip_norm": 1000.0},
        train={
            "steps": 1000,
            "batch_size": 64,
            "log_every": 50,
            "evaluate_every": 250,
            "checkpoint_every": 250,
            "sample_every": 500,
            "best": "reconstruction",
        },
        variants={
            "tiny": {
                **SIX_STEPS,
                "model": {"width": 4, "evaluate_samples": 3},
            }
        },
        variant=variant,
    )
