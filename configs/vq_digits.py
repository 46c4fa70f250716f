"""A VQ-VAE on scikit-learn's 8x8 digits: 4x4 codes. A minute on two cores."""

from genimg_jax.engine.config import SIX_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "vq",
        model={
            "width": 32,
            "num_downsamples": 1,
            "codebook_size": 64,
            "features": 16,
        },
        data={"source": "digits"},
        optimizer={"learning_rate": 2e-3, "schedule": "cosine"},
        train={
            "steps": 1000,
            "batch_size": 64,
            "log_every": 50,
            "evaluate_every": 250,
            "checkpoint_every": 250,
            "sample_every": 250,
            "best": "loss",
        },
        variants={
            "tiny": {
                **SIX_STEPS,
                "model": {"width": 8, "codebook_size": 16, "features": 4},
            }
        },
        variant=variant,
    )
