"""Rectified flow, given the class, with a small U-Net on MNIST: about 15 minutes of two cores.

Two host devices, since convolutions of so few features do not fill two cores. Prepared data is found in
TFDS_DATA_DIR, or where data.path says.
"""

from genimg_jax.engine.config import experiment


def get_config(variant: str = "full"):
    tiny = variant == "tiny"
    return experiment(
        "flow",
        model={
            "network": "unet",
            "width": 4 if tiny else 32,
            "multipliers": (1,) if tiny else (1, 2, 2),
            "blocks": 1,
            "conditional": True,
            "guidance": 1.0 if tiny else 1.5,
            "solver": "euler" if tiny else "heun",
            "steps": 3 if tiny else 18,
            "dequantize": not tiny,
            "evaluate_times": 2 if tiny else 4,
            "likelihood_steps": 4 if tiny else 32,
            "likelihood_probes": 1,
        },
        data={"source": "tfds", "name": "mnist", "limit": 64 if tiny else 0},
        optimizer={
            "learning_rate": 1e-3,
            "schedule": "cosine",
            "warmup_steps": 0 if tiny else 100,
            "ema_half_life": 0.0 if tiny else 20_000.0,
        },
        train={
            "steps": 4 if tiny else 1_600,
            "batch_size": 16 if tiny else 64,
            "log_every": 2 if tiny else 50,
            "evaluate_every": 2 if tiny else 1_600,
            "checkpoint_every": 2 if tiny else 400,
            "keep": 4,
            "sample_every": 2 if tiny else 800,
        },
        evaluate={"batch_size": 16 if tiny else 200},
        runtime={"host_devices": 1 if tiny else 2},
    )
