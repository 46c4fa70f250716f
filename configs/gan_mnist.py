"""A convolutional GAN (DCGAN, Radford et al. 2016) on MNIST, its generator averaged.

Prepared data is found in TFDS_DATA_DIR, or where data.path says.
"""

from genimg_jax.engine.config import experiment


def get_config(variant: str = "full"):
    tiny = variant == "tiny"
    return experiment(
        "gan",
        model={
            "network": "conv",
            "width": 4 if tiny else 32,
            "latent": 8 if tiny else 64,
            "discriminator_normalization": "batch",
        },
        data={"source": "tfds", "name": "mnist", "limit": 64 if tiny else 0},
        optimizer={
            "generator": {"learning_rate": 2e-4, "arguments": {"b1": 0.5}, "ema_half_life": 10_000.0},
            "discriminator": {"learning_rate": 2e-4, "arguments": {"b1": 0.5}},
        },
        train={
            "steps": 4 if tiny else 8_000,
            "batch_size": 16 if tiny else 64,
            "log_every": 2 if tiny else 100,
            "evaluate_every": 2 if tiny else 2_000,
            "checkpoint_every": 2 if tiny else 2_000,
            "sample_every": 2 if tiny else 1_000,
            "samples": 16 if tiny else 100,
        },
        evaluate={"batch_size": 16 if tiny else 500},
    )
