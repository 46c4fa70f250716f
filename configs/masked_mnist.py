"""Masked generation on dynamically binarised MNIST: a lower bound of the likelihood, and samples in a few steps.

It takes an hour of one core. Prepared data is found in TFDS_DATA_DIR, or where data.path says.
"""

from genimg_jax.engine.config import FOUR_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "masked",
        model={
            "network": "unet",
            "width": 32,
            "multipliers": (1, 2, 2),
            "blocks": 1,
            "likelihood_masks": 16,
        },
        data={"source": "tfds", "name": "mnist", "binarize": "dynamic"},
        optimizer={
            "name": "muon",
            "arguments": {"consistent_rms": 1.0},
            "learning_rate": 1e-3,
            "schedule": "cosine",
            "warmup_steps": 200,
            "ema_half_life": 20_000.0,
        },
        train={
            "steps": 3_600,
            "batch_size": 32,
            "log_every": 100,
            "evaluate_every": 1_800,
            "checkpoint_every": 1_000,
            "sample_every": 3_600,
            "best": "loss",
        },
        evaluate={"batch_size": 200},
        runtime={"host_devices": 2},
        variants={
            "tiny": {
                **FOUR_STEPS,
                "model": {
                    "width": 4,
                    "multipliers": (1,),
                    "steps": 3,
                    "evaluate_masks": 2,
                    "likelihood_masks": 2,
                },
                "data": {"limit": 64},
                "optimizer": {"warmup_steps": 0, "ema_half_life": 0.0},
                "runtime": {"host_devices": 1},
            },
        },
        variant=variant,
    )
