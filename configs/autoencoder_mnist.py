"""A convolutional denoising autoencoder on MNIST.

Prepared data is found in TFDS_DATA_DIR, or where data.path says.
"""

from genimg_jax.engine.config import FOUR_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "autoencoder",
        model={
            "network": "conv",
            "width": 32,
            "latent": 16,
            "loss": "cross_entropy",
            "corruption": "masking",
            "components": 30,
            "bank": 4096,
        },
        data={"source": "tfds", "name": "mnist"},
        optimizer={"learning_rate": 1e-3, "schedule": "cosine", "ema_half_life": 50_000.0},
        train={
            "steps": 5_000,
            "batch_size": 128,
            "log_every": 50,
            "evaluate_every": 1_000,
            "checkpoint_every": 1_000,
            "sample_every": 1_000,
            "best": "loss",
        },
        evaluate={"batch_size": 500},
        variants={
            "tiny": {
                **FOUR_STEPS,
                "model": {"width": 4, "latent": 4, "components": 3, "bank": 32},
                "data": {"limit": 64},
                "optimizer": {"ema_half_life": 0.0},
            }
        },
        variant=variant,
    )
