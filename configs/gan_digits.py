"""A GAN with MLPs on scikit-learn's 8x8 digits."""

from genimg_jax.engine.config import SIX_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "gan",
        model={"network": "mlp", "width": 256, "depth": 3, "latent": 32},
        data={"source": "digits"},
        optimizer={
            "generator": {"learning_rate": 2e-4, "arguments": {"b1": 0.5}, "ema_half_life": 5000.0},
            "discriminator": {"learning_rate": 2e-4, "arguments": {"b1": 0.5}},
        },
        train={
            "steps": 8000,
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
                "model": {"width": 16, "depth": 1, "latent": 8},
            }
        },
        variant=variant,
    )
