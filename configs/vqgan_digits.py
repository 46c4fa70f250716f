"""A VQGAN on scikit-learn's 8x8 digits: 4x4 codes. Two minutes on two cores."""

from genimg_jax.engine.config import experiment


def get_config(variant: str = "full"):
    tiny = variant == "tiny"
    return experiment(
        "vqgan",
        model={
            "width": 8 if tiny else 32,
            "halvings": 1,
            "codebook_size": 16 if tiny else 64,
            "features": 4 if tiny else 16,
            "discriminator_width": 8 if tiny else 32,
            "discriminator_depth": 1,
        },
        data={"source": "digits"},
        optimizer={
            "autoencoder": {"learning_rate": 2e-3, "schedule": "cosine", "arguments": {"b1": 0.5}},
            "discriminator": {"learning_rate": 5e-4, "schedule": "cosine", "arguments": {"b1": 0.5}},
        },
        train={
            "steps": 6 if tiny else 1000,
            "batch_size": 16 if tiny else 64,
            "log_every": 2 if tiny else 50,
            "evaluate_every": 4 if tiny else 250,
            "checkpoint_every": 4 if tiny else 250,
            "sample_every": 4 if tiny else 250,
        },
    )
