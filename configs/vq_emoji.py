"""A VQ-VAE on 64x64 colour emoji: 16x16 codes, of 512. Ten minutes on two cores.

Give the folder: --config.data.path=PATH/emoji64
"""

from genimg_jax.engine.config import experiment


def get_config(variant: str = "full"):
    tiny = variant == "tiny"
    return experiment(
        "vq",
        model={
            "width": 4 if tiny else 32,
            "halvings": 2,
            "codebook_size": 32 if tiny else 512,
            "features": 4 if tiny else 32,
        },
        data={"source": "folder", "path": "emoji64", "limit": 64 if tiny else 0},
        optimizer={"learning_rate": 1e-3, "schedule": "cosine", "warmup_steps": 0 if tiny else 100},
        train={
            "steps": 4 if tiny else 2_000,
            "batch_size": 16 if tiny else 32,
            "log_every": 2 if tiny else 50,
            "evaluate_every": 2 if tiny else 500,
            "checkpoint_every": 2 if tiny else 500,
            "sample_every": 2 if tiny else 500,
            "best": "loss",
        },
        evaluate={"batch_size": 16 if tiny else 90},
    )
