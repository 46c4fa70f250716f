"""A recurrent model of scikit-learn's 8x8 digits, thresholded, a row a step. A minute on two cores."""

from genimg_jax.engine.config import SIX_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "rnn",
        model={"cell": "gru", "width": 256, "order": "row", "likelihood": "bernoulli"},
        data={"source": "digits", "binarize": "dynamic"},
        optimizer={"learning_rate": 1e-3},
        train={
            "steps": 4000,
            "batch_size": 128,
            "log_every": 50,
            "evaluate_every": 500,
            "checkpoint_every": 1000,
            "sample_every": 1000,
            "best": "loss",
        },
        variants={
            "tiny": {
                **SIX_STEPS,
                "model": {"width": 16},
            }
        },
        variant=variant,
    )
