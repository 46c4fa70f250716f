"""A gated PixelCNN on scikit-learn's 8x8 digits, thresholded. Two minutes on two cores."""

from genimg_jax.engine.config import experiment


def get_config(variant: str = "full"):
    tiny = variant == "tiny"
    return experiment(
        "pixelcnn",
        model={
            "features": 4 if tiny else 32,
            "layers": 1 if tiny else 6,
            "first_reach": 2,
            "likelihood": "bernoulli",
        },
        data={"source": "digits", "binarize": "dynamic"},
        optimizer={"learning_rate": 2e-3, "schedule": "cosine"},
        train={
            "steps": 6 if tiny else 1000,
            "batch_size": 16 if tiny else 64,
            "log_every": 2 if tiny else 50,
            "evaluate_every": 4 if tiny else 250,
            "checkpoint_every": 4 if tiny else 1000,
            "sample_every": 4 if tiny else 1000,
            "best": "loss",
        },
    )
