"""A Transformer over the codes of a tokenizer of scikit-learn's digits: train configs/vq_digits.py first."""

from genimg_jax.engine.config import SIX_STEPS, experiment


def get_config(variant: str = ""):
    return experiment(
        "transformer",
        model={"width": 64, "depth": 4, "heads": 4},
        data={"source": "digits"},
        tokenizer={"workdir": "runs/vq_digits"},
        optimizer={"learning_rate": 2e-3, "schedule": "cosine", "warmup_steps": 100, "clip_norm": 10.0},
        train={
            "steps": 300,  # more repeat the training images' codes: the held-out loss doubles by 2,000
            "batch_size": 64,
            "log_every": 50,
            "evaluate_every": 100,
            "checkpoint_every": 100,
            "sample_every": 100,
            "best": "loss",
        },
        variants={
            "tiny": {
                **SIX_STEPS,
                "model": {"width": 8, "depth": 1, "heads": 2},
                "optimizer": {"warmup_steps": 0},
            }
        },
        variant=variant,
    )
