"""EDM over the vectors of a tokenizer of colour emoji, which decoding quantises: train configs/vq_emoji.py first.

Give the folder: --config.data.path=PATH/emoji64
"""

from genimg_jax.engine.config import experiment


def get_config(variant: str = "full"):
    tiny = variant == "tiny"
    return experiment(
        "diffusion",
        model={
            "network": "unet",
            "width": 4 if tiny else 64,
            "multipliers": (1, 2),
            "blocks": 1,
            "solver": "dpm_solver" if tiny else "heun",
            "steps": 3 if tiny else 18,
            "evaluate_times": 2 if tiny else 8,
        },
        data={"source": "folder", "path": "emoji64", "limit": 64 if tiny else 0},
        tokenizer={"workdir": "runs/vq_emoji"},
        optimizer={
            "learning_rate": 1e-3,
            "schedule": "cosine",
            "warmup_steps": 0 if tiny else 100,
            "clip_norm": 10.0,
            "ema_half_life": 0.0 if tiny else 5_000.0,
        },
        train={
            "steps": 4 if tiny else 2_000,
            "batch_size": 16 if tiny else 32,
            "log_every": 2 if tiny else 50,
            "evaluate_every": 2 if tiny else 500,
            "checkpoint_every": 2 if tiny else 500,
            "sample_every": 2 if tiny else 1_000,
            "best": "loss",
        },
        evaluate={"batch_size": 16 if tiny else 90},
    )
