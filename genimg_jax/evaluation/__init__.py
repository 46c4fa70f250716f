"""Evaluation of runs, and of images from any other program: classifiers of the data, tests with them, checks of
requested attributes, and whole suites. Above the engine and the metrics; below commands and sweeps.

    from genimg_jax import evaluation
    report = evaluation.evaluate_run(workdir, which="full")
    report["metrics"]["frechet/pixels"]["value"]
"""

from genimg_jax.evaluation.external import evaluate_images
from genimg_jax.evaluation.results import table
from genimg_jax.evaluation.runs import evaluate_checkpoints, evaluate_run

__all__ = ["evaluate_checkpoints", "evaluate_images", "evaluate_run", "table"]
