"""A GAN with MLPs on scikit-learn's 8x8 digits."""

from genimg_jax.engine.config import experiment


def get_config(variant: str = "full"):
    tiny = variant == "tiny"
    return experiment(
        "gan",
        model={"network": "mlp", "width": 16 if tiny else 256, "depth": 1 if tiny else 3, "latent": 8 if tiny else 32},
        data={"source": "digits"},
        optimizer={
            "generator": {"learning_rate": 2e-4, "arguments": {"b1": 0.5}, "ema_half_life": 5000.0},
            "discriminator": {"learning_rate": 2e-4, "arguments": {"b1": 0.5}},
        },
        train={
            "steps": 6 if tiny else 8000,
            "batch_size": 16 if tiny else 64,
            "log_every": 2 if tiny else 50,
            "evaluate_every": 4 if tiny else 1000,
            "checkpoint_every": 4 if tiny else 1000,
            "sample_every": 4 if tiny else 1000,
        },
        runtime={"cpu_tuning": False},  # made for convolutions: it slows networks without any
    )
