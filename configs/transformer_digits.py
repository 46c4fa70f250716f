"""A Transformer over the pixels of scikit-learn's 8x8 digits, thresholded. Two or three minutes on two cores."""

from genimg_jax.engine.config import SIX_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "transformer",
        model={"width": 64, "depth": 4, "heads": 4},
        data={"source": "digits", "binarize": "dynamic"},
        optimizer={"learning_rate": 2e-3, "schedule": "cosine", "warmup_steps": 100, "clip_norm": 10.0},
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
                "model": {"width": 8, "depth": 1, "heads": 2},
                "optimizer": {"warmup_steps": 0},
            }
        },
        variant=variant,
    )
