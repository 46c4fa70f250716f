"""A Transformer over the 7x7 codes of a tokenizer of MNIST: train configs/vq_mnist.py first.

Prepared data is found in TFDS_DATA_DIR, or where data.path says.
"""

from genimg_jax.engine.config import FOUR_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "transformer",
        model={"width": 128, "depth": 4, "heads": 4},
        data={"source": "tfds", "name": "mnist"},
        tokenizer={"workdir": "runs/vq_mnist"},
        optimizer={
            "name": "adamw",
            "arguments": {"weight_decay": 0.01},
            "learning_rate": 2e-3,
            "schedule": "cosine",
            "warmup_steps": 100,
            "clip_norm": 100.0,
            "ema_half_life": 10_000.0,
        },
        train={
            "steps": 3_200,
            "batch_size": 64,
            "log_every": 50,
            "evaluate_every": 800,
            "checkpoint_every": 800,
            "sample_every": 1_600,
            "best": "loss",
        },
        evaluate={"batch_size": 200},
        variants={
            "tiny": {
                **FOUR_STEPS,
                "model": {"width": 8, "depth": 1, "heads": 2},
                "data": {"limit": 64},
                "optimizer": {"warmup_steps": 0, "ema_half_life": 0.0},
            }
        },
        variant=variant,
    )
