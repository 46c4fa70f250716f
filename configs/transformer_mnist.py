"""A Transformer over the 784 pixels of dynamically binarised MNIST, for an accelerator.

`small` is one that two cores can train, some 25 images a second: too few for a good likelihood in an hour, for which
`pixelcnn_mnist.py` is the better use of them. Prepared data is found in TFDS_DATA_DIR, or where data.path says.
"""

from genimg_jax.engine.config import FOUR_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "transformer",
        model={
            "width": 256,
            "depth": 8,
            "heads": 4,
        },
        data={"source": "tfds", "name": "mnist", "binarize": "dynamic"},
        optimizer={
            "name": "adamw",
            "arguments": {"weight_decay": 0.01},
            "learning_rate": 1e-3,
            "schedule": "cosine",
            "warmup_steps": 500,
            "clip_norm": 100.0,
            "ema_half_life": 20_000.0,
        },
        train={
            "steps": 25_000,
            "batch_size": 128,
            "precision": "bfloat16",
            "log_every": 100,
            "evaluate_every": 5_000,
            "checkpoint_every": 1_000,
            "sample_every": 25_000,
            "best": "loss",
        },
        evaluate={"batch_size": 100},
        variants={
            "tiny": {
                **FOUR_STEPS,
                "model": {"width": 8, "depth": 1, "heads": 2},
                "data": {"limit": 64},
                "optimizer": {"warmup_steps": 0, "ema_half_life": 0.0},
                "train": {**FOUR_STEPS["train"], "precision": "float32"},
            },
            "small": {
                "model": {"width": 64, "depth": 4},
                "optimizer": {"learning_rate": 0.002},
                "train": {"steps": 8_000, "batch_size": 16, "precision": "float32"},
                "runtime": {"host_devices": 2},
            },
        },
        variant=variant,
    )
