"""A gated PixelCNN on dynamically binarised MNIST: an exact likelihood in three quarters of an hour on two cores.

About 115 images a second of two undisturbed cores in training; two host devices, since a convolution of so few
features does not fill two cores. `large` is for an accelerator. Prepared data is found in TFDS_DATA_DIR, or where
data.path says.
"""

from genimg_jax.engine.config import FOUR_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "pixelcnn",
        model={
            "features": 32,
            "layers": 10,
            "likelihood": "bernoulli",
        },
        data={"source": "tfds", "name": "mnist", "binarize": "dynamic"},
        optimizer={
            "learning_rate": 2e-3,
            "schedule": "cosine",
            "warmup_steps": 200,
            "ema_half_life": 20_000.0,
        },
        train={
            "steps": 9_000,
            "batch_size": 32,
            "precision": "float32",
            "log_every": 100,
            "evaluate_every": 3_000,
            "checkpoint_every": 1_000,
            "sample_every": 9_000,
            "best": "loss",
        },
        evaluate={"batch_size": 200},
        runtime={"host_devices": 2},
        variants={
            "tiny": {
                **FOUR_STEPS,
                "model": {"features": 4, "layers": 2},
                "data": {"limit": 64},
                "optimizer": {"warmup_steps": 0, "ema_half_life": 0.0},
                "runtime": {"host_devices": 1},
            },
            "large": {
                "model": {"features": 96, "layers": 14},
                "optimizer": {"learning_rate": 0.001},
                "train": {"steps": 20_000, "batch_size": 64, "precision": "bfloat16"},
            },
        },
        variant=variant,
    )
