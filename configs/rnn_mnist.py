"""Recurrent models of dynamically binarised MNIST: a row a step (`row`, the default) or a pixel a step (`pixel`).

Prepared data is found in TFDS_DATA_DIR, or where data.path says.
"""

from genimg_jax.engine.config import experiment


def get_config(variant: str = "row"):
    tiny, pixel = variant == "tiny", variant == "pixel"
    return experiment(
        "rnn",
        model={
            "cell": "gru",
            "width": 16 if tiny else 128 if pixel else 512,
            "order": "pixel" if pixel else "row",
            # The pixels of the row above, and what is left of them in the row before: 784 steps are far to remember.
            "window": 59 if pixel else 2,
            "likelihood": "bernoulli",
        },
        data={"source": "tfds", "name": "mnist", "binarize": "dynamic", "limit": 64 if tiny else 0},
        optimizer={
            "learning_rate": 3e-3 if pixel else 1e-3,
            "schedule": "cosine",
            "clip_norm": 100.0,
            "ema_half_life": 0.0 if tiny else 2_000.0 if pixel else 50_000.0,
        },
        train={
            "steps": 4 if tiny else 600 if pixel else 6_000,
            "batch_size": 16 if tiny else 64,
            "log_every": 2 if tiny else 100,
            "evaluate_every": 2 if tiny else 600 if pixel else 2_000,
            "checkpoint_every": 2 if tiny else 600 if pixel else 2_000,
            "sample_every": 2 if tiny else 5_000,
            "best": "loss",
        },
        evaluate={"batch_size": 16 if tiny else 250},
    )
