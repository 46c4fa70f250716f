"""Mean flow, given the class, in one step with a small U-Net on MNIST: about 37 minutes of two cores.

Two host devices, since convolutions of so few features do not fill two cores. Prepared data is found in
TFDS_DATA_DIR, or where data.path says.
"""

from genimg_jax.engine.config import FOUR_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "meanflow",
        model={
            "network": "unet",
            "width": 32,
            "multipliers": (1, 2, 2),
            "blocks": 1,
            "conditions": ("label",),
            "guidance": 1.5,
            "dequantize": True,
            "evaluate_times": 4,
            "likelihood_steps": 32,
            "likelihood_probes": 1,
        },
        data={"source": "tfds", "name": "mnist"},
        optimizer={
            "learning_rate": 1e-3,
            "schedule": "cosine",
            "warmup_steps": 100,
            "ema_half_life": 20_000.0,
        },
        train={
            "steps": 1_600,
            "batch_size": 64,
            "log_every": 50,
            "evaluate_every": 1_600,
            "checkpoint_every": 400,
            "keep": 4,
            "sample_every": 800,
        },
        evaluate={"batch_size": 200},
        runtime={"host_devices": 2},
        variants={
            "tiny": {
                **FOUR_STEPS,
                "model": {
                    "width": 4,
                    "multipliers": (1,),
                    "guidance": 1.0,
                    "dequantize": False,
                    "evaluate_times": 2,
                    "likelihood_steps": 4,
                },
                "data": {"limit": 64},
                "optimizer": {"warmup_steps": 0, "ema_half_life": 0.0},
                "runtime": {"host_devices": 1},
            }
        },
        variant=variant,
    )
