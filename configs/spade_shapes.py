"""SPADE on procedural scenes: images from segmentation maps, in the style of an image or in a sampled one.

Sized for an hour of two cores. `genimg sample --reconstruct 32` gives the style of held-out images to their own maps.
"""

from genimg_jax.engine.config import FOUR_STEPS, experiment


def get_config(variant: str = ""):
    adam = {"arguments": {"b1": 0.0, "b2": 0.9}}
    return experiment(
        "spade",
        model={
            "width": 32,
            "depth": 3,
            "hidden": 32,
            "latent": 16,
            "style_encoder": True,
        },
        data={
            "source": "shapes",
            "fields": ("map",),
            "shapes": {"count": 40_000},
        },
        optimizer={
            # Two time scales (Heusel et al. 2017), as in the paper, whose 1e-4 and 4e-4 are too slow for so few steps.
            "generator": {**adam, "learning_rate": 4e-4, "ema_half_life": 10_000.0},
            "discriminator": {**adam, "learning_rate": 8e-4},
        },
        train={
            "steps": 10_000,
            "batch_size": 16,
            "log_every": 100,
            "evaluate_every": 2_000,
            "checkpoint_every": 2_000,
            "sample_every": 1_000,
        },
        variants={
            "tiny": {
                **FOUR_STEPS,
                "model": {
                    "width": 4,
                    "depth": 1,
                    "hidden": 4,
                    "latent": 4,
                    "encoder_width": 4,
                    "discriminator_width": 4,
                    "discriminator_depth": 2,
                },
                "data": {"shapes": {"count": 200}},
                "train": {**FOUR_STEPS["train"], "samples": 16},
                "optimizer": {"generator": {"ema_half_life": 0.0}},
            }
        },
        variant=variant,
    )
