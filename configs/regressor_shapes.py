"""A U-Net that enlarges 32x32 procedural scenes from 8x8: regression, the baseline of super-resolution.

Sized for a quarter of an hour of one core. Another `data.observation.kind` is another task, such as inpaint or deblur.
"""

from genimg_jax.engine.config import FOUR_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "regressor",
        model={"width": 32, "unet_patch": 2, "multipliers": (1, 2), "blocks": 1, "conditions": ("source",)},
        data={
            "source": "shapes",
            "fields": ("source",),
            "shapes": {"count": 20_000},
            "observation": {"kind": "superres", "factor": 4},
        },
        optimizer={"learning_rate": 1e-3, "schedule": "cosine", "ema_half_life": 10_000.0},
        train={
            "steps": 2_000,
            "batch_size": 32,
            "log_every": 50,
            "evaluate_every": 500,
            "checkpoint_every": 500,
            "sample_every": 1_000,
            "best": "loss",
        },
        variants={
            "tiny": {
                **FOUR_STEPS,
                "model": {"width": 4, "multipliers": (1, 1)},
                "data": {"shapes": {"count": 200}},
                "train": {**FOUR_STEPS["train"], "samples": 16},
                "optimizer": {"ema_half_life": 0.0},
            }
        },
        variant=variant,
    )
