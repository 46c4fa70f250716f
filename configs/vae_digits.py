"""A VAE on scikit-learn's 8x8 digits, thresholded. Two minutes on two cores."""

from genimg_jax.engine.config import SIX_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "vae",
        model={
            "network": "mlp",
            "width": 256,
            "depth": 2,
            "latent": 16,
            "likelihood": "bernoulli",
        },
        data={"source": "digits", "binarize": "dynamic"},
        optimizer={"learning_rate": 1e-3},
        train={
            "steps": 4000,
            "batch_size": 128,
            "log_every": 50,
            "evaluate_every": 500,
            "checkpoint_every": 1000,
            "sample_every": 1000,
            "best": "loss",
        },
        runtime={"cpu_tuning": False},  # made for convolutions: it slows networks without any
        variants={
            "tiny": {
                **SIX_STEPS,
                "model": {"width": 16, "depth": 1, "latent": 4},
            }
        },
        variant=variant,
    )
