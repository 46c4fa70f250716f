"""A VQ-VAE on 32x32 procedural scenes: 8x8 codes, of 256. Fifteen minutes on two cores."""

from genimg_jax.engine.config import FOUR_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "vq",
        model={
            "width": 32,
            "num_downsamples": 2,
            "codebook_size": 256,
            "features": 16,
        },
        data={"source": "shapes", "shapes": {"count": 40_000, "holdout": True}},
        optimizer={"learning_rate": 1e-3, "schedule": "cosine", "warmup_steps": 100},
        train={
            "steps": 3000,
            "batch_size": 64,
            "log_every": 50,
            "evaluate_every": 500,
            "checkpoint_every": 500,
            "sample_every": 1000,
            "best": "loss",
        },
        variants={
            "tiny": {
                **FOUR_STEPS,
                "model": {"width": 4, "codebook_size": 32, "features": 4},
                "data": {"shapes": {"count": 200}},
                "optimizer": {"warmup_steps": 0},
            }
        },
        variant=variant,
    )
