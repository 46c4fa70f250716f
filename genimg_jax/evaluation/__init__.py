"""What one command measures about images that any program made: classifiers of the data, tests with them, checks of
what was asked for, and whole suites. Above the engine and the metrics; below commands and sweeps.

    from genimg_jax import evaluation
    report = evaluation.evaluate_run(workdir, which="full")
    report["metrics"]["frechet/pixels"]["value"]
"""

from genimg_jax.evaluation.external import evaluate_images
from genimg_jax.evaluation.results import table
from genimg_jax.evaluation.runs import evaluate_checkpoints, evaluate_run

__all__ = ["evaluate_checkpoints", "evaluate_images", "evaluate_run", "table"]
