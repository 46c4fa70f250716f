"""A convolutional denoising autoencoder on MNIST.

Prepared data is found in TFDS_DATA_DIR, or where data.path says.
"""

from genimg_jax.engine.config import experiment


def get_config(variant: str = "full"):
    tiny = variant == "tiny"
    return experiment(
        "autoencoder",
        model={
            "network": "conv",
            "width": 4 if tiny else 32,
            "latent": 4 if tiny else 16,
            "loss": "cross_entropy",
            "corruption": "masking",
            "components": 3 if tiny else 30,
            "bank": 32 if tiny else 4096,
        },
        data={"source": "tfds", "name": "mnist", "limit": 64 if tiny else 0},
        optimizer={"learning_rate": 1e-3, "schedule": "cosine", "ema_half_life": 0.0 if tiny else 50_000.0},
        train={
            "steps": 4 if tiny else 5_000,
            "batch_size": 16 if tiny else 128,
            "log_every": 2 if tiny else 50,
            "evaluate_every": 2 if tiny else 1_000,
            "checkpoint_every": 2 if tiny else 1_000,
            "sample_every": 2 if tiny else 1_000,
            "best": "loss",
        },
        evaluate={"batch_size": 16 if tiny else 500},
    )
