"""A class-conditional convolutional GAN on CIFAR-10: hinge loss, spectral normalisation (Miyato et al. 2018).

Prepared data is found in TFDS_DATA_DIR, or where data.path says.
"""

from genimg_jax.engine.config import experiment


def get_config(variant: str = "full"):
    tiny = variant == "tiny"
    return experiment(
        "gan",
        model={
            "network": "conv",
            "width": 4 if tiny else 64,
            "latent": 8 if tiny else 128,
            "loss": "hinge",
            "spectral": True,
            "conditional": True,
        },
        data={"source": "tfds", "name": "cifar10", "flip": True, "limit": 64 if tiny else 0},
        optimizer={
            "generator": {"learning_rate": 2e-4, "arguments": {"b1": 0.5}, "ema_half_life": 20_000.0},
            "discriminator": {"learning_rate": 2e-4, "arguments": {"b1": 0.5}},
        },
        train={
            "steps": 4 if tiny else 100_000,
            "batch_size": 16 if tiny else 64,
            "log_every": 2 if tiny else 100,
            "evaluate_every": 2 if tiny else 5_000,
            "checkpoint_every": 2 if tiny else 5_000,
            "sample_every": 2 if tiny else 5_000,
            "samples": 20 if tiny else 100,
        },
        evaluate={"batch_size": 16 if tiny else 500},
    )
