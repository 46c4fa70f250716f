"""Text-to-image in two stages (Ramesh et al. 2021): a Transformer over a caption and the codes of a scene.

Train configs/vq_shapes.py first. With a fifth of the scenes it overfits within the hour. Combinations that were never
trained on: --config.data.evaluate_split=holdout.
"""

from genimg_jax.engine.config import FOUR_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "transformer",
        model={"width": 128, "depth": 6, "heads": 4, "conditions": ("tokens",), "temperature": 0.5},
        data={
            "source": "shapes",
            "fields": ("tokens",),
            "captions": {"length": 14},
            "shapes": {"count": 200_000, "holdout": True},
        },
        tokenizer={"workdir": "runs/vq_shapes"},
        optimizer={
            "name": "muon",
            "arguments": {"consistent_rms": 1.0},
            "learning_rate": 1e-3,
            "schedule": "cosine",
            "warmup_steps": 200,
            "ema_half_life": 50_000.0,
        },
        train={
            "steps": 6000,
            "batch_size": 64,
            "log_every": 50,
            "evaluate_every": 1000,
            "checkpoint_every": 500,
            "sample_every": 1000,
            "best": "loss",
        },
        variants={
            "tiny": {
                **FOUR_STEPS,
                "model": {"width": 8, "depth": 1, "heads": 2},
                "data": {"shapes": {"count": 200}},
                "optimizer": {"warmup_steps": 0, "ema_half_life": 0.0},
            }
        },
        variant=variant,
    )
