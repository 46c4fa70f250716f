"""A VQ-VAE on 64x64 colour emoji: 16x16 codes, of 512. Ten minutes on two cores.

Give the folder: --config.data.path=PATH/emoji64
"""

from genimg_jax.engine.config import FOUR_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "vq",
        model={
            "width": 32,
            "num_downsamples": 2,
            "codebook_size": 512,
            "features": 32,
        },
        data={"source": "folder", "path": "emoji64"},
        optimizer={"learning_rate": 1e-3, "schedule": "cosine", "warmup_steps": 100},
        train={
            "steps": 2_000,
            "batch_size": 32,
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
                "model": {"width": 4, "codebook_size": 32, "features": 4},
                "data": {"limit": 64},
                "optimizer": {"warmup_steps": 0},
            }
        },
        variant=variant,
    )
