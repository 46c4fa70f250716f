"""A Transformer over the 7x7 codes of a tokenizer of MNIST: train configs/vq_mnist.py first.

Prepared data is found in TFDS_DATA_DIR, or where data.path says.
"""

from genimg_jax.engine.config import experiment


def get_config(variant: str = "full"):
    tiny = variant == "tiny"
    return experiment(
        "transformer",
        model={"width": 8 if tiny else 128, "depth": 1 if tiny else 4, "heads": 2 if tiny else 4},
        data={"source": "tfds", "name": "mnist", "limit": 64 if tiny else 0},
        tokenizer={"workdir": "runs/vq_mnist"},
        optimizer={
            "name": "adamw",
            "arguments": {"weight_decay": 0.01},
            "learning_rate": 2e-3,
            "schedule": "cosine",
            "warmup_steps": 0 if tiny else 100,
            "clip_norm": 100.0,
            "ema_half_life": 0.0 if tiny else 10_000.0,
        },
        train={
            "steps": 4 if tiny else 3_200,
            "batch_size": 16 if tiny else 64,
            "log_every": 2 if tiny else 50,
            "evaluate_every": 2 if tiny else 800,
            "checkpoint_every": 2 if tiny else 800,
            "sample_every": 2 if tiny else 1_600,
            "best": "loss",
        },
        evaluate={"batch_size": 16 if tiny else 200},
    )
