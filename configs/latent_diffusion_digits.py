"""EDM, given the class, over the codes of a VAE of scikit-learn's digits: train configs/vae_grid_digits.py first."""

from genimg_jax.engine.config import SIX_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "diffusion",
        model={
            "network": "unet",
            "width": 32,
            "multipliers": (1, 2),
            "blocks": 1,
            "conditions": ("label",),
            "guidance": 1.5,
            "solver": "heun",
            "steps": 18,
            "evaluate_times": 16,
        },
        data={"source": "digits"},
        tokenizer={"workdir": "runs/vae_grid_digits"},
        optimizer={"learning_rate": 1e-3, "schedule": "cosine", "ema_half_life": 10_000.0},
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
                **SIX_STEPS,
                "model": {"width": 4, "multipliers": (1,), "solver": "dpm_solver", "steps": 3, "evaluate_times": 2},
                "optimizer": {"ema_half_life": 0.0},
            }
        },
        variant=variant,
    )
