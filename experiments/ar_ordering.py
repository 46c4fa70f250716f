"""Whether the order in which pixels are drawn matters to MADE, and whether a mixture of orders helps (Germain et al.
2015, section 4.2). A random order is another one for each seed."""

import pathlib

from genimg_jax.engine.config_files import load
from genimg_jax.sweeps.experiment import experiment
from genimg_jax.sweeps.grid import param, product, seeds

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


def get_experiment(variant: str = "full"):
    tiny = variant == "tiny"
    return experiment(
        question="Does the order of the pixels matter to MADE, and does a mixture of orders help?",
        base=load(f"{CONFIGS}/made_digits.py{':tiny' * tiny}"),
        settings={"train.steps": 6 if tiny else 2000},
        grid=product(
            param("model.order", "raster", "random"),
            param("model.orders", *((1, 2) if tiny else (1, 2, 4, 8))),
            seeds(2 if tiny else 5, "model.order_seed"),
        ),
        metric="negative_log_likelihood",
        baseline={"model.order": "raster", "model.orders": 1},
    )
