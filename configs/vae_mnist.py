"""A VAE on dynamically binarised MNIST: the benchmark of Burda et al. 2016 (importance-weighted autoencoders).

Prepared data is found in TFDS_DATA_DIR, or where data.path says.
"""

from genimg_jax.engine.config import FOUR_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "vae",
        model={
            "network": "mlp",
            "width": 512,
            "depth": 2,
            "latent": 40,
            "likelihood": "bernoulli",
            "kl_warmup": 10_000.0,
            "evaluate_samples": 500,
        },
        data={"source": "tfds", "name": "mnist", "binarize": "dynamic"},
        optimizer={"learning_rate": 1e-3, "schedule": "cosine", "ema_half_life": 200_000.0},
        train={
            "steps": 100_000,
            "batch_size": 128,
            "log_every": 200,
            "evaluate_every": 5_000,
            "checkpoint_every": 5_000,
            "sample_every": 20_000,
            "best": "loss",
        },
        evaluate={"batch_size": 500},
        runtime={"cpu_tuning": False},  # made for convolutions: it slows networks without any
        variants={
            "tiny": {
                **FOUR_STEPS,
                "model": {"width": 16, "depth": 1, "latent": 4, "kl_warmup": 0.0, "evaluate_samples": 3},
                "data": {"limit": 64},
                "optimizer": {"ema_half_life": 0.0},
            }
        },
        variant=variant,
    )
