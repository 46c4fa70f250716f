"""Properties of metrics by name, declared once: which direction is better, the unit and the range.

`train.best`, tables, sweeps and pictures read this. A metric of a new family gets a line here.
"""

import fnmatch
import math
from typing import NamedTuple

ARROWS = {"higher": " ↑", "lower": " ↓", "": ""}


class Declared(NamedTuple):
    better: str = ""  # 'higher' or 'lower'; "": neither, such as a term of a loss, or a metric with a target value
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf


SHARE = Declared("higher", low=0.0, high=1.0)
# By name; * matches anything, such as the features of a distance. The first match counts.
DECLARED = {
    # Families, on held-out images
    "loss": Declared("lower"),
    "reconstruction": Declared("lower"),
    "psnr": Declared("higher", "dB"),
    "kl": Declared(low=0.0),
    "diffusion": Declared(low=0.0),
    "prior": Declared(low=0.0),
    "cycle": Declared("lower", low=0.0),
    "identity": Declared("lower", low=0.0),
    "l1": Declared("lower", low=0.0),
    "loss_generator": Declared(),  # of a game: it depends on the other player
    "loss_discriminator": Declared(),
    "logit_*": Declared(),
    # Likelihoods
    "negative_log_likelihood": Declared("lower", "nats an image"),
    "bits_per_*": Declared("lower", "bits"),
    "discretisation_error": Declared("lower", "nats an image", 0.0),
    "bound_gap": Declared(unit="nats an image"),  # to be near to 0
    # Distances to reference images; those corrected for their bias may be below 0
    "frechet/*": Declared("lower", low=0.0),
    "frechet_corrected/*": Declared("lower"),
    "kernel/*": Declared("lower"),
    "sliced/*": Declared("lower", low=0.0),
    "precision/*": SHARE,
    "recall/*": SHARE,
    "coverage/*": SHARE,
    "density/*": Declared("higher", low=0.0),
    "vendi/*": Declared(low=1.0),  # to be near to that of the data
    "inception_score/*": Declared("higher", low=1.0),
    # Classes and attributes
    "class_histogram": Declared("lower", low=0.0, high=1.0),
    "gan_*_control": Declared(low=0.0, high=1.0),  # of real images
    "gan_*_difference": Declared(low=-1.0, high=1.0),  # to be near to 0
    "gan_*": SHARE,
    "prompt_accuracy/*": SHARE,
    # Restored images
    "ssim": Declared("higher", high=1.0),
    "ms_ssim": Declared("higher", low=0.0, high=1.0),
    "feature_distance": Declared("lower", low=0.0),
    "residual": Declared(low=0.0),  # to be near to the noise of the observation
    "credible_coverage/*": Declared(low=0.0, high=1.0),  # to be near to the level
    "crps": Declared("lower"),  # fair scores may be below 0
    "energy_score": Declared("lower"),
    "diversity": Declared(low=0.0),
    "psnr_of_mean": Declared("higher", "dB"),
    "rank_deviation": Declared("lower", low=0.0, high=1.0),
    # Inference of conditions by Bayes' rule
    "zero_shot_accuracy": SHARE,
    "retrieval@1/*": SHARE,
    "attribute_accuracy/*": SHARE,
    # Memorisation
    "copies/*": Declared("lower", low=0.0, high=1.0),
    "data_copying/*": Declared(),  # to be near to 0
    # Cost
    "images_seen": Declared(unit="images", low=0.0),
    "training_minutes": Declared("lower", "minutes", 0.0),
    "images_a_second": Declared("higher", "images a second", 0.0),
}


UNKNOWN = Declared()


def of(metric: str) -> Declared:
    """The properties of a metric; `UNKNOWN` if none are declared."""
    return next((declared for name, declared in DECLARED.items() if fnmatch.fnmatchcase(metric, name)), UNKNOWN)


def arrow(column: str) -> str:
    """The header of a column, such as `negative_log_likelihood (exact)`, with an arrow towards better values."""
    return column + ARROWS[of(column.partition(" (")[0]).better]
