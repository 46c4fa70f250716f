"""A denoising autoencoder on scikit-learn's 8x8 digits. A minute on two cores."""

from genimg_jax.engine.config import SIX_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "autoencoder",
        model={
            "width": 256,
            "depth": 2,
            "latent": 8,
            "corruption": "gaussian",
            "components": 20,
            "bank": 4096,
        },
        data={"source": "digits"},
        optimizer={"learning_rate": 1e-3},
        train={
            "steps": 4000,
            "batch_size": 128,
            "log_every": 50,
            "evaluate_every": 500,
            "checkpoint_every": 1000,
            "sample_every": 1000,
            "best": "loss",
        },
        variants={
            "tiny": {
                **SIX_STEPS,
                "model": {"width": 16, "depth": 1, "latent": 4, "components": 3, "bank": 32},
            }
        },
        variant=variant,
    )
