"""A convolutional VAE on 64x64 colour emoji, an image folder with a metadata.jsonl in each split.

Give the folder: --config.data.path=PATH/emoji64
"""

from genimg_jax.engine.config import FOUR_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "vae",
        model={
            "network": "conv",
            "width": 32,
            "latent": 128,
            "likelihood": "discretized_logistic",
            "evaluate_samples": 100,
        },
        data={"source": "folder", "path": "emoji64"},
        optimizer={
            "learning_rate": 5e-4,
            "schedule": "cosine",
            "warmup_steps": 500,
            "clip_norm": 1000.0,
        },
        train={
            "steps": 4_000,
            "batch_size": 64,
            "log_every": 50,
            "evaluate_every": 500,
            "checkpoint_every": 500,
            "sample_every": 500,
            "best": "loss",
        },
        evaluate={"batch_size": 90},
        variants={
            "tiny": {
                **FOUR_STEPS,
                "model": {"width": 4, "latent": 8, "evaluate_samples": 3},
                "data": {"limit": 64},
                "optimizer": {"warmup_steps": 0},
            }
        },
        variant=variant,
    )
