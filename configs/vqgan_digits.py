"""A VQGAN on scikit-learn's 8x8 digits: 4x4 codes. Two minutes on two cores."""

from genimg_jax.engine.config import SIX_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "vqgan",
        model={
            "width": 32,
            "num_downsamples": 1,
            "codebook_size": 64,
            "features": 16,
            "discriminator_width": 32,
            "discriminator_depth": 1,
        },
        data={"source": "digits"},
        optimizer={
            "autoencoder": {"learning_rate": 2e-3, "schedule": "cosine", "arguments": {"b1": 0.5}},
            "discriminator": {"learning_rate": 5e-4, "schedule": "cosine", "arguments": {"b1": 0.5}},
        },
        train={
            "steps": 1000,
            "batch_size": 64,
            "log_every": 50,
            "evaluate_every": 250,
            "checkpoint_every": 250,
            "sample_every": 250,
        },
        variants={
            "tiny": {
                **SIX_STEPS,
                "model": {"width": 8, "codebook_size": 16, "features": 4, "discriminator_width": 8},
            }
        },
        variant=variant,
    )
