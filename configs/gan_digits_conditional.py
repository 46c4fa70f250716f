"""A class-conditional GAN with MLPs on scikit-learn's 8x8 digits: the demo. Half a minute on two cores."""

from genimg_jax.engine.config import SIX_STEPS, experiment


def get_config(variant: str = ""):
    adam = {"learning_rate": 1e-3, "arguments": {"b1": 0.5}}
    return experiment(
        "gan",
        model={
            "network": "mlp",
            "width": 256,
            "depth": 3,
            "latent": 32,
            "penalty": "r1",
            "penalty_weight": 0.1,
            "conditions": ("label",),
        },
        data={"source": "digits"},
        optimizer={
            "generator": {**adam, "ema_half_life": 5000.0},
            "discriminator": adam,
        },
        train={
            "steps": 4000,
            "batch_size": 64,
            "log_every": 50,
            "evaluate_every": 1000,
            "checkpoint_every": 1000,
            "sample_every": 1000,
            "samples": 100,
        },
        runtime={"cpu_tuning": False},  # made for convolutions: it slows networks without any
        variants={
            "tiny": {
                "model": {"width": 16, "depth": 1, "latent": 8},
                "train": {**SIX_STEPS["train"], "samples": 16},
            }
        },
        variant=variant,
    )
