"""A VAE on scikit-learn's 8x8 digits, thresholded. Two minutes on two cores."""

from genimg_jax.engine.config import experiment


def get_config(variant: str = "full"):
    tiny = variant == "tiny"
    return experiment(
        "vae",
        model={
            "network": "mlp",
            "width": 16 if tiny else 256,
            "depth": 1 if tiny else 2,
            "latent": 4 if tiny else 16,
            "likelihood": "bernoulli",
        },
        data={"source": "digits", "binarize": "dynamic"},
        optimizer={"learning_rate": 1e-3},
        train={
            "steps": 6 if tiny else 4000,
            "batch_size": 16 if tiny else 128,
            "log_every": 2 if tiny else 50,
            "evaluate_every": 4 if tiny else 500,
            "checkpoint_every": 4 if tiny else 1000,
            "sample_every": 4 if tiny else 1000,
            "best": "loss",
        },
        runtime={"cpu_tuning": False},  # made for convolutions: it slows networks without any
    )
