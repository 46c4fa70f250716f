"""A VQ-VAE on CIFAR-10, sized for an accelerator: 8x8 codes, of 512.

Prepared data is found in TFDS_DATA_DIR, or where data.path says.
"""

from genimg_jax.engine.config import FOUR_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "vq",
        model={
            "width": 128,
            "blocks": 2,
            "num_downsamples": 2,
            "codebook_size": 512,
            "features": 64,
        },
        data={"source": "tfds", "name": "cifar10", "flip": True},
        optimizer={"learning_rate": 4e-4, "schedule": "cosine", "warmup_steps": 500},
        train={
            "steps": 50_000,
            "batch_size": 128,
            "log_every": 100,
            "evaluate_every": 5_000,
            "checkpoint_every": 5_000,
            "sample_every": 5_000,
            "best": "loss",
        },
        evaluate={"batch_size": 500},
        variants={
            "tiny": {
                **FOUR_STEPS,
                "model": {"width": 4, "blocks": 1, "codebook_size": 32, "features": 4},
                "data": {"limit": 64},
                "optimizer": {"warmup_steps": 0},
            }
        },
        variant=variant,
    )
