"""A VAE on dynamically binarised MNIST: the benchmark of Burda et al. 2016 (importance-weighted autoencoders).

Prepared data is found in TFDS_DATA_DIR, or where data.path says.
"""

from genimg_jax.engine.config import experiment


def get_config(variant: str = "full"):
    tiny = variant == "tiny"
    return experiment(
        "vae",
        model={
            "network": "mlp",
            "width": 16 if tiny else 512,
            "depth": 1 if tiny else 2,
            "latent": 4 if tiny else 40,
            "likelihood": "bernoulli",
            "kl_warmup": 0.0 if tiny else 10_000.0,
            "evaluate_samples": 3 if tiny else 500,
        },
        data={"source": "tfds", "name": "mnist", "binarize": "dynamic", "limit": 64 if tiny else 0},
        optimizer={"learning_rate": 1e-3, "schedule": "cosine", "ema_half_life": 0.0 if tiny else 200_000.0},
        train={
            "steps": 4 if tiny else 100_000,
            "batch_size": 16 if tiny else 128,
            "log_every": 2 if tiny else 200,
            "evaluate_every": 2 if tiny else 5_000,
            "checkpoint_every": 2 if tiny else 5_000,
            "sample_every": 2 if tiny else 20_000,
            "best": "loss",
        },
        evaluate={"batch_size": 16 if tiny else 500},
        runtime={"cpu_tuning": False},  # made for convolutions: it slows networks without any
    )
