"""A BiGAN with MLPs, R1 and both cycle losses on scikit-learn's 8x8 digits."""

from genimg_jax.engine.config import SIX_STEPS, experiment


def get_config(variant: str = ""):
    adam = {"learning_rate": 5e-4, "arguments": {"b1": 0.5}}
    return experiment(
        "bigan",
        model={
            "network": "mlp",
            "width": 256,
            "depth": 2,
            "latent": 16,
            "penalty": "r1",
            "penalty_weight": 0.3,
            "image_cycle": 10.0,
            "code_cycle": 10.0,
        },
        data={"source": "digits"},
        optimizer={"generator": {**adam, "ema_half_life": 5000.0}, "discriminator": adam},
        train={
            "steps": 5000,
            "batch_size": 64,
            "log_every": 50,
            "evaluate_every": 1000,
            "checkpoint_every": 1000,
            "sample_every": 1000,
        },
        runtime={"cpu_tuning": False},  # made for convolutions: it slows networks without any
        variants={
            "tiny": {
                **SIX_STEPS,
                "model": {"width": 16, "depth": 1, "joint_width": 16, "latent": 8},
            }
        },
        variant=variant,
    )
