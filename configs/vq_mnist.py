"""A VQ-VAE on MNIST: 7x7 codes, of 256.

Prepared data is found in TFDS_DATA_DIR, or where data.path says.
"""

from genimg_jax.engine.config import experiment


def get_config(variant: str = "full"):
    tiny = variant == "tiny"
    return experiment(
        "vq",
        model={
            "width": 4 if tiny else 32,
            "halvings": 2,
            "codebook_size": 32 if tiny else 256,
            "features": 4 if tiny else 16,
        },
        data={"source": "tfds", "name": "mnist", "limit": 64 if tiny else 0},
        optimizer={"learning_rate": 1e-3, "schedule": "cosine", "warmup_steps": 0 if tiny else 100},
        train={
            "steps": 4 if tiny else 1_600,
            "batch_size": 16 if tiny else 64,
            "log_every": 2 if tiny else 50,
            "evaluate_every": 2 if tiny else 800,
            "checkpoint_every": 2 if tiny else 400,
            "sample_every": 2 if tiny else 800,
            "best": "loss",
        },
        evaluate={"batch_size": 16 if tiny else 200},
    )
