"""A VQ-VAE on scikit-learn's 8x8 digits: 4x4 codes. A minute on two cores."""

from genimg_jax.engine.config import experiment


def get_config(variant: str = "full"):
    tiny = variant == "tiny"
    return experiment(
        "vq",
        model={
            "width": 8 if tiny else 32,
            "halvings": 1,
            "codebook_size": 16 if tiny else 64,
            "features": 4 if tiny else 16,
        },
        data={"source": "digits"},
        optimizer={"learning_rate": 2e-3, "schedule": "cosine"},
        train={
            "steps": 6 if tiny else 1000,
            "batch_size": 16 if tiny else 64,
            "log_every": 2 if tiny else 50,
            "evaluate_every": 4 if tiny else 250,
            "checkpoint_every": 4 if tiny else 250,
            "sample_every": 4 if tiny else 250,
            "best": "loss",
        },
    )
