"""A Transformer over the 784 pixels of dynamically binarised MNIST, for an accelerator.

`small` is one that two cores can train, some 25 images a second: too few for a good likelihood in an hour, for which
`pixelcnn_mnist.py` is the better use of them. Prepared data is found in TFDS_DATA_DIR, or where data.path says.
"""

from genimg_jax.engine.config import experiment


def get_config(variant: str = "full"):
    tiny, small = variant == "tiny", variant == "small"
    return experiment(
        "transformer",
        model={
            "width": 8 if tiny else 64 if small else 256,
            "depth": 1 if tiny else 4 if small else 8,
            "heads": 2 if tiny else 4,
        },
        data={"source": "tfds", "name": "mnist", "binarize": "dynamic", "limit": 64 if tiny else 0},
        optimizer={
            "name": "adamw",
            "arguments": {"weight_decay": 0.01},
            "learning_rate": 2e-3 if small else 1e-3,
            "schedule": "cosine",
            "warmup_steps": 0 if tiny else 500,
            "clip_norm": 100.0,
            "ema_half_life": 0.0 if tiny else 20_000.0,
        },
        train={
            "steps": 4 if tiny else 8_000 if small else 25_000,
            "batch_size": 16 if tiny or small else 128,
            "precision": "float32" if tiny or small else "bfloat16",
            "log_every": 2 if tiny else 100,
            "evaluate_every": 2 if tiny else 5_000,
            "checkpoint_every": 2 if tiny else 1_000,
            "sample_every": 2 if tiny else 25_000,
            "best": "loss",
        },
        evaluate={"batch_size": 16 if tiny else 100},
        runtime={"host_devices": 2 if small else 1},
    )
