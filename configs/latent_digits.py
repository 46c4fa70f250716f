"""A Transformer over the codes of a tokenizer of scikit-learn's digits: train configs/vq_digits.py first."""

from genimg_jax.engine.config import experiment


def get_config(variant: str = "full"):
    tiny = variant == "tiny"
    return experiment(
        "transformer",
        model={"width": 8 if tiny else 64, "depth": 1 if tiny else 4, "heads": 2 if tiny else 4},
        data={"source": "digits"},
        tokenizer={"workdir": "runs/vq_digits"},
        optimizer={"learning_rate": 2e-3, "schedule": "cosine", "warmup_steps": 0 if tiny else 100, "clip_norm": 10.0},
        train={
            "steps": 6 if tiny else 2000,
            "batch_size": 16 if tiny else 64,
            "log_every": 2 if tiny else 50,
            "evaluate_every": 4 if tiny else 500,
            "checkpoint_every": 4 if tiny else 1000,
            "sample_every": 4 if tiny else 1000,
            "best": "loss",
        },
    )
