"""A VQ-VAE on MNIST: 7x7 codes, of 256.

Prepared data is found in TFDS_DATA_DIR, or where data.path says.
"""

from genimg_jax.engine.config import FOUR_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "vq",
        model={
            "width": 32,
            "num_downsamples": 2,
            "codebook_size": 256,
            "features": 16,
        },
        data={"source": "tfds", "name": "mnist"},
        optimizer={"learning_rate": 1e-3, "schedule": "cosine", "warmup_steps": 100},
        train={
            "steps": 1_600,
            "batch_size": 64,
            "log_every": 50,
            "evaluate_every": 800,
            "checkpoint_every": 400,
            "sample_every": 800,
            "best": "loss",
        },
        evaluate={"batch_size": 200},
        variants={
            "tiny": {
                **FOUR_STEPS,
                "model": {"width": 4, "codebook_size": 32, "features": 4},
                "data": {"limit": 64},
                "optimizer": {"warmup_steps": 0},
            }
        },
        variant=variant,
    )
