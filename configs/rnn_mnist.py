"""Recurrent models of dynamically binarised MNIST: a row a step, or a pixel a step (`pixel`).

Prepared data is found in TFDS_DATA_DIR, or where data.path says.
"""

from genimg_jax.engine.config import FOUR_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "rnn",
        model={
            "cell": "gru",
            "width": 512,
            "order": "row",
            # The pixels of the row above, and what is left of them in the row before: 784 steps are far to remember.
            "window": 2,
            "likelihood": "bernoulli",
        },
        data={"source": "tfds", "name": "mnist", "binarize": "dynamic"},
        optimizer={
            "learning_rate": 1e-3,
            "schedule": "cosine",
            "clip_norm": 100.0,
            "ema_half_life": 50_000.0,
        },
        train={
            "steps": 6_000,
            "batch_size": 64,
            "log_every": 100,
            "evaluate_every": 2_000,
            "checkpoint_every": 2_000,
            "sample_every": 5_000,
            "best": "loss",
        },
        evaluate={"batch_size": 250},
        variants={
            "tiny": {
                **FOUR_STEPS,
                "model": {"width": 16},
                "data": {"limit": 64},
                "optimizer": {"ema_half_life": 0.0},
            },
            "pixel": {
                "model": {"width": 128, "order": "pixel", "window": 59},
                "optimizer": {"learning_rate": 0.003, "ema_half_life": 2_000.0},
                "train": {"steps": 600, "evaluate_every": 600, "checkpoint_every": 600},
            },
        },
        variant=variant,
    )
