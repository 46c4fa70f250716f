"""A denoising autoencoder on scikit-learn's 8x8 digits. A minute on two cores."""

from genimg_jax.engine.config import experiment


def get_config(variant: str = "full"):
    tiny = variant == "tiny"
    return experiment(
        "autoencoder",
        model={
            "width": 16 if tiny else 256,
            "depth": 1 if tiny else 2,
            "latent": 4 if tiny else 8,
            "corruption": "gaussian",
            "components": 3 if tiny else 20,
            "bank": 32 if tiny else 4096,
        },
        data={"source": "digits"},
        optimizer={"learning_rate": 1e-3},
        train={
            "steps": 6 if tiny else 4000,
            "batch_size": 16 if tiny else 128,
            "log_every": 2 if tiny else 50,
            "evaluate_every": 4 if tiny else 500,
            "checkpoint_every": 4 if tiny else 1000,
            "sample_every": 4 if tiny else 1000,
            "best": "loss",
        },
    )
