"""Rectified flow over the codes of colour emoji, given the emoji's name, its keywords, and its style as class.

Train configs/vq_emoji.py first. Give the folder: --config.data.path=PATH/emoji64
"""

from genimg_jax.engine.config import FOUR_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "flow",
        model={
            "network": "dit",
            "patch": 2,
            "width": 128,
            "depth": 6,
            "heads": 4,
            "registers": 0,
            "label_tokens": 0,
            "conditions": ("label", "tokens"),
            "guidance": 2.0,
            "steps": 32,
            "times": "logit_normal_times",
            "evaluate_times": 4,
        },
        data={
            "source": "folder",
            "path": "emoji64",
            "fields": ("tokens",),
            "captions": {"columns": ("text", "keywords"), "tokens": "bpe", "vocabulary_size": 1024, "length": 80},
        },
        tokenizer={"workdir": "runs/vq_emoji"},
        optimizer={
            "name": "muon",
            "arguments": {"consistent_rms": 1.0},
            "learning_rate": 1e-3,
            "schedule": "cosine",
            "warmup_steps": 100,
            "ema_half_life": 20_000.0,
        },
        train={
            "steps": 5000,
            "batch_size": 32,
            "log_every": 50,
            "evaluate_every": 500,
            "checkpoint_every": 500,
            "sample_every": 1000,
            "best": "loss",
        },
        evaluate={"batch_size": 90},
        variants={
            "tiny": {
                **FOUR_STEPS,
                "model": {"width": 8, "depth": 1, "heads": 1, "steps": 3, "evaluate_times": 2},
                "data": {"limit": 64},
                "optimizer": {"warmup_steps": 0, "ema_half_life": 0.0},
            }
        },
        variant=variant,
    )
