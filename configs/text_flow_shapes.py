"""Rectified flow, given a caption, with a U-Net on procedural scenes: about 50 minutes of two cores.

Some combinations of words are kept from it. `genimg evaluate` reads the captions back from the
samples' pixels. Combinations that were never trained on are in another split: --config.data.evaluate_split=holdout.
"""

from genimg_jax.engine.config import FOUR_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "flow",
        model={
            "network": "unet",
            "unet_patch": 2,
            "width": 64,
            "multipliers": (1, 2),
            "blocks": 1,
            "conditions": ("tokens",),
            "guidance": 4.0,
            "steps": 32,
            "times": "logit_normal_times",
            "P_std": 1.2,
            "evaluate_times": 4,
            "likelihood_steps": 32,
            "likelihood_probes": 4,
        },
        data={
            "source": "shapes",
            "fields": ("tokens",),
            "captions": {"length": 14},
            "shapes": {"count": 40_000, "holdout": True},
        },
        optimizer={
            "name": "muon",
            "arguments": {"consistent_rms": 1.0},
            "learning_rate": 1e-3,
            "schedule": "cosine",
            "warmup_steps": 200,
            "ema_half_life": 50_000.0,
        },
        train={
            "steps": 4000,
            "batch_size": 64,
            "log_every": 50,
            "evaluate_every": 1000,
            "checkpoint_every": 1000,
            "sample_every": 2000,
            "best": "loss",
        },
        variants={
            "tiny": {
                **FOUR_STEPS,
                "model": {
                    "width": 4,
                    "multipliers": (1,),
                    "steps": 3,
                    "evaluate_times": 2,
                    "likelihood_steps": 4,
                    "likelihood_probes": 1,
                },
                "data": {"shapes": {"count": 200}},
                "optimizer": {"warmup_steps": 0, "ema_half_life": 0.0},
            }
        },
        variant=variant,
    )
