"""A VQ-VAE on CIFAR-10, sized for an accelerator: 8x8 codes, of 512.

Prepared data is found in TFDS_DATA_DIR, or where data.path says.
"""

from genimg_jax.engine.config import experiment


def get_config(variant: str = "full"):
    tiny = variant == "tiny"
    return experiment(
        "vq",
        model={
            "width": 4 if tiny else 128,
            "blocks": 1 if tiny else 2,
            "halvings": 2,
            "codebook_size": 32 if tiny else 512,
            "features": 4 if tiny else 64,
        },
        data={"source": "tfds", "name": "cifar10", "flip": True, "limit": 64 if tiny else 0},
        optimizer={"learning_rate": 4e-4, "schedule": "cosine", "warmup_steps": 0 if tiny else 500},
        train={
            "steps": 4 if tiny else 50_000,
            "batch_size": 16 if tiny else 128,
            "log_every": 2 if tiny else 100,
            "evaluate_every": 2 if tiny else 5_000,
            "checkpoint_every": 2 if tiny else 5_000,
            "sample_every": 2 if tiny else 5_000,
            "best": "loss",
        },
        evaluate={"batch_size": 16 if tiny else 500},
    )
