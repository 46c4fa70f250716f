"""A CycleGAN between two drawing styles of 64x64 colour emoji: samples are Blob emoji, from Noto emoji. An hour of two
cores.

Make the folders of both styles with experiments/pair_folders.py, and give them:
--config.data.path=FOLDER/blob --config.data.domains.partner=FOLDER/noto
"""

from genimg_jax.engine.config import FOUR_STEPS, experiment


def get_config(variant: str = ""):
    # The schedule of the paper's section 4: constant, then linearly down to 0.
    adam = {"learning_rate": 4e-4, "schedule": "linear", "arguments": {"b1": 0.5}}
    return experiment(
        "cyclegan",
        model={
            "width": 16,
            "blocks": 6,
            "identity_weight": 2.5,  # half of cycle_weight, as in the paper's section 5.2: it keeps colours
            "discriminator_width": 32,
            "discriminator_depth": 3,
        },
        data={
            "source": "domains",
            "path": "emoji64_styles/blob",
            "domains": {"partner": "emoji64_styles/noto"},
            "fields": ("source",),
        },
        optimizer={"generator": {**adam, "ema_half_life": 2_000.0}, "discriminator": adam},
        train={
            "steps": 6_000,
            "batch_size": 4,
            "log_every": 50,
            "evaluate_every": 1_000,
            "checkpoint_every": 500,
            "sample_every": 1_000,
        },
        evaluate={"batch_size": 60},
        variants={
            "tiny": {
                **FOUR_STEPS,
                "model": {
                    "width": 4,
                    "num_downsamples": 1,
                    "blocks": 1,
                    "pool": 10,
                    "discriminator_width": 4,
                    "discriminator_depth": 1,
                },
                "data": {"limit": 64},
                "train": {**FOUR_STEPS["train"], "batch_size": 8, "samples": 16},
            }
        },
        variant=variant,
    )
