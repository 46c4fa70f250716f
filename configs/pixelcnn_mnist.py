"""A gated PixelCNN on dynamically binarised MNIST: an exact likelihood in three quarters of an hour on two cores.

About 115 images a second of two undisturbed cores in training; two host devices, since a convolution of so few
features does not fill two cores. `large` is for an accelerator. Prepared data is found in TFDS_DATA_DIR, or where
data.path says.
"""

from genimg_jax.engine.config import experiment


def get_config(variant: str = "full"):
    tiny, large = variant == "tiny", variant == "large"
    return experiment(
        "pixelcnn",
        model={
            "features": 4 if tiny else 96 if large else 32,
            "layers": 2 if tiny else 14 if large else 10,
            "likelihood": "bernoulli",
        },
        data={"source": "tfds", "name": "mnist", "binarize": "dynamic", "limit": 64 if tiny else 0},
        optimizer={
            "learning_rate": 1e-3 if large else 2e-3,
            "schedule": "cosine",
            "warmup_steps": 0 if tiny else 200,
            "ema_half_life": 0.0 if tiny else 20_000.0,
        },
        train={
            "steps": 4 if tiny else 20_000 if large else 9_000,
            "batch_size": 16 if tiny else 64 if large else 32,
            "precision": "bfloat16" if large else "float32",
            "log_every": 2 if tiny else 100,
            "evaluate_every": 2 if tiny else 3_000,
            "checkpoint_every": 2 if tiny else 1_000,
            "sample_every": 2 if tiny else 9_000,
            "best": "loss",
        },
        evaluate={"batch_size": 16 if tiny else 200},
        runtime={"host_devices": 1 if tiny else 2},
    )
