"""EDM over the vectors of a tokenizer of colour emoji, which decoding quantises: train configs/vq_emoji.py first.

Give the folder: --config.data.path=PATH/emoji64
"""

from genimg_jax.engine.config import FOUR_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "diffusion",
        model={
            "network": "unet",
            "width": 64,
            "multipliers": (1, 2),
            "blocks": 1,
            "solver": "heun",
            "steps": 18,
            "evaluate_times": 8,
        },
        data={"source": "folder", "path": "emoji64"},
        tokenizer={"workdir": "runs/vq_emoji"},
        optimizer={
            "learning_rate": 1e-3,
            "schedule": "cosine",
            "warmup_steps": 100,
            "clip_norm": 10.0,
            "ema_half_life": 5_000.0,
        },
        train={
            "steps": 2_000,
            "batch_size": 32,
            "log_every": 50,
            "evaluate_every": 500,
            "checkpoint_every": 500,
            "sample_every": 1_000,
            "best": "loss",
        },
        evaluate={"batch_size": 90},
        variants={
            "tiny": {
                **FOUR_STEPS,
                "model": {"width": 4, "solver": "dpm_solver", "steps": 3, "evaluate_times": 2},
                "data": {"limit": 64},
                "optimizer": {"warmup_steps": 0, "ema_half_life": 0.0},
            }
        },
        variant=variant,
    )
