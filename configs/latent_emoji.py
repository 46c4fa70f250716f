"""A Transformer over the codes of a tokenizer of colour emoji: train configs/vq_emoji.py first.

Give the folder: --config.data.path=PATH/emoji64
"""

from genimg_jax.engine.config import experiment


def get_config(variant: str = "full"):
    tiny = variant == "tiny"
    return experiment(
        "transformer",
        model={"width": 8 if tiny else 128, "depth": 1 if tiny else 4, "heads": 2 if tiny else 4},
        data={"source": "folder", "path": "emoji64", "limit": 64 if tiny else 0},
        tokenizer={"workdir": "runs/vq_emoji"},
        optimizer={
            "name": "adamw",
            "arguments": {"weight_decay": 0.1},
            "learning_rate": 2e-3,
            "schedule": "cosine",
            "warmup_steps": 0 if tiny else 100,
            "clip_norm": 100.0,
            "ema_half_life": 0.0 if tiny else 3_000.0,
        },
        train={
            "steps": 4 if tiny else 800,
            "batch_size": 16 if tiny else 32,
            "log_every": 2 if tiny else 50,
            "evaluate_every": 2 if tiny else 200,
            "checkpoint_every": 2 if tiny else 200,
            "sample_every": 2 if tiny else 400,
            "best": "loss",
        },
        evaluate={"batch_size": 16 if tiny else 90},
        runtime={"host_devices": 1 if tiny else 2},
    )
