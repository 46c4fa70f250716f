"""A convolutional VAE on 64x64 colour emoji, an image folder with a metadata.jsonl in each split.

Give the folder: --config.data.path=PATH/emoji64
"""

from genimg_jax.engine.config import experiment


def get_config(variant: str = "full"):
    tiny = variant == "tiny"
    return experiment(
        "vae",
        model={
            "network": "conv",
            "width": 4 if tiny else 32,
            "latent": 8 if tiny else 128,
            "likelihood": "discretized_logistic",
            "evaluate_samples": 3 if tiny else 100,
        },
        data={"source": "folder", "path": "emoji64", "limit": 64 if tiny else 0},
        optimizer={
            "learning_rate": 5e-4,
            "schedule": "cosine",
            "warmup_steps": 0 if tiny else 500,
            "clip_norm": 1000.0,
        },
        train={
            "steps": 4 if tiny else 4_000,
            "batch_size": 16 if tiny else 64,
            "log_every": 2 if tiny else 50,
            "evaluate_every": 2 if tiny else 500,
            "checkpoint_every": 2 if tiny else 500,
            "sample_every": 2 if tiny else 500,
            "best": "loss",
        },
        evaluate={"batch_size": 16 if tiny else 90},
    )
