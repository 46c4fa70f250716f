"""A pix2pix between two drawing styles of 64x64 colour emoji: samples are Blob emoji, from Noto emoji. An hour of two
cores.

Make the folders of both styles with experiments/pair_folders.py, and give them:
--config.data.path=FOLDER/blob --config.data.pairs.partner=FOLDER/noto
"""

from genimg_jax.engine.config import FOUR_STEPS, experiment


def get_config(variant: str = ""):
    adam = {"learning_rate": 2e-4, "schedule": "cosine", "arguments": {"b1": 0.5}}
    return experiment(
        "pix2pix",
        model={
            "width": 32,
            "depth": 6,
            "discriminator_width": 32,
            "discriminator_depth": 3,
            "conditions": ("source",),
        },
        data={
            "source": "pairs",
            "path": "emoji64_styles/blob",
            "pairs": {"partner": "emoji64_styles/noto"},
            "fields": ("source",),
        },
        optimizer={"generator": {**adam, "ema_half_life": 2_000.0}, "discriminator": adam},
        train={
            "steps": 7_000,
            "batch_size": 8,
            "log_every": 50,
            "evaluate_every": 1_000,
            "checkpoint_every": 1_000,
            "sample_every": 2_000,
        },
        evaluate={"batch_size": 60},
        variants={
            "tiny": {
                **FOUR_STEPS,
                "model": {"width": 4, "depth": 3, "discriminator_width": 4, "discriminator_depth": 1},
                "data": {"limit": 64},
                "train": {**FOUR_STEPS["train"], "batch_size": 8, "samples": 16},
            }
        },
        variant=variant,
    )
