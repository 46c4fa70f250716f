"""A Transformer over the codes of a tokenizer of colour emoji: train configs/vq_emoji.py first.

Give the folder: --config.data.path=PATH/emoji64
"""

from genimg_jax.engine.config import FOUR_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "transformer",
        model={"width": 128, "depth": 4, "heads": 4},
        data={"source": "folder", "path": "emoji64"},
        tokenizer={"workdir": "runs/vq_emoji"},
        optimizer={
            "name": "adamw",
            "arguments": {"weight_decay": 0.1},
            "learning_rate": 2e-3,
            "schedule": "cosine",
            "warmup_steps": 100,
            "clip_norm": 100.0,
            "ema_half_life": 3_000.0,
        },
        train={
            "steps": 800,
            "batch_size": 32,
            "log_every": 50,
            "evaluate_every": 200,
            "checkpoint_every": 200,
            "sample_every": 400,
            "best": "loss",
        },
        evaluate={"batch_size": 90},
        runtime={"host_devices": 2},
        variants={
            "tiny": {
                **FOUR_STEPS,
                "model": {"width": 8, "depth": 1, "heads": 2},
                "data": {"limit": 64},
                "optimizer": {"warmup_steps": 0, "ema_half_life": 0.0},
                "runtime": {"host_devices": 1},
            }
        },
        variant=variant,
    )
