"""An autoencoder of 8x8 discrete codes (FSQ) on 32x32 procedural scenes.

The squared error keeps the notches of small crosses; with the absolute error the smallest are drawn as squares.
"""

from genimg_jax.engine.config import FOUR_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "vq",
        model={
            "width": 48,
            "num_downsamples": 2,
            "quantizer": "fsq",
            "levels": (7, 5, 5, 5, 5),
        },
        data={"source": "shapes", "shapes": {"count": 40_000, "holdout": True}},
        optimizer={
            "name": "muon",
            "arguments": {"consistent_rms": 1.0},
            "learning_rate": 1e-3,
            "schedule": "cosine",
            "warmup_steps": 100,
        },
        train={
            "steps": 8000,
            "batch_size": 64,
            "log_every": 50,
            "evaluate_every": 1000,
            "checkpoint_every": 500,
            "sample_every": 2000,
            "best": "loss",
        },
        variants={
            "tiny": {
                **FOUR_STEPS,
                "model": {"width": 4, "levels": (4, 4, 2)},
                "data": {"shapes": {"count": 200}},
                "optimizer": {"warmup_steps": 0},
            }
        },
        variant=variant,
    )
