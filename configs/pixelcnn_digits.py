"""A gated PixelCNN on scikit-learn's 8x8 digits, thresholded. Two minutes on two cores."""

from genimg_jax.engine.config import SIX_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "pixelcnn",
        model={
            "features": 32,
            "layers": 6,
            "first_kernel_radius": 2,
            "likelihood": "bernoulli",
        },
        data={"source": "digits", "binarize": "dynamic"},
        optimizer={"learning_rate": 2e-3, "schedule": "cosine"},
        train={
            "steps": 1000,
            "batch_size": 64,
            "log_every": 50,
            "evaluate_every": 250,
            "checkpoint_every": 1000,
            "sample_every": 1000,
            "best": "loss",
        },
        variants={
            "tiny": {
                **SIX_STEPS,
                "model": {"features": 4, "layers": 1},
            }
        },
        variant=variant,
    )
