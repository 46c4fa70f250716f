"""genimg evaluate --workdir runs/vae_digits"""

import math
from collections.abc import Sequence

from absl import flags

from genimg_jax.commands import command_line

ABOUT = """held-out loss and likelihood of a run, over one exact pass of config.data.evaluate_split.

  genimg evaluate --workdir runs/vae_digits
  genimg evaluate --workdir runs/vae_mnist --checkpoint last --config.evaluate.batch_size=250

Writes evaluation/CHECKPOINT.json. The draws are the same for every run, whatever its seed."""


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "directory of the run (required)", flag_values=values)
    flags.DEFINE_string("checkpoint", "best", "best, last, or a step", flag_values=values)
    flags.DEFINE_bool("averaged", True, "the moving average of the weights, where there is one", flag_values=values)


def main(arguments: Sequence[str]) -> None:
    values = command_line.parse("evaluate", ABOUT, define, arguments, config="workdir")
    workdir = command_line.workdir(values)
    from genimg_jax.engine import config as configs
    from genimg_jax.engine import runtime

    print(runtime.prepare(configs.resolve(values.config).runtime))
    from genimg_jax.data import open_source
    from genimg_jax.engine import program as programs
    from genimg_jax.engine import restored, run

    program, weights, step, _ = restored.open_run(workdir, values.config.to_dict(), values.checkpoint, values.averaged)
    options, family = program.config.data, program.family
    source = open_source(options, options.evaluate_split)
    results = programs.evaluate(program, weights, source)
    metrics = programs.summarize(results)
    likelihood = None
    if program.config.evaluate.likelihood and family.log_prob is not None:
        negative = -programs.evaluate(program, weights, source, "log_prob")["log_prob"]
        shape = (family.likelihood_of or program.spec).image_shape
        per = "bits_per_code" if family.likelihood_of else "bits_per_dimension"
        bits = negative / (math.prod(shape) * math.log(2))
        metrics |= programs.summarize({"negative_log_likelihood": negative, per: bits})
        metrics["negative_log_likelihood"]["unit"] = "nats an image"
        metrics[per]["unit"] = "bits"
        kinds = {"exact": "exact", "lower": "a bound: the true value is at most this", "estimate": "an estimate"}
        likelihood = {"log-likelihood": kinds[family.bound], **family.protocol}
        if codes := family.likelihood_of:
            height, width, channels = codes.image_shape
            likelihood["of"] = f"{height}x{width}x{channels} codes of {codes.levels} values, not of pixels"
    elif program.config.evaluate.likelihood and family.protocol:
        likelihood = dict(family.protocol)  # why there is none
    report = {
        "checkpoint": values.checkpoint,
        "step": step,
        "split": options.evaluate_split,
        "examples": source.size,
        "metrics": metrics,
        "protocol": {
            "data": source.fingerprint,
            "binarize": options.binarize,
            "levels": program.spec.levels,
            "weights": "averaged" if values.averaged else "as trained",
            "evaluation seed": programs.EVALUATION_SEED,
            "interval": "95 % over examples, normal approximation",
            **(likelihood or {}),
        },
    }
    path = workdir / "evaluation" / f"{values.checkpoint}.json"
    run.write_json(path, report)
    print(
        f"\n{workdir}, checkpoint {values.checkpoint} (step {step}), {source.size} images of {options.evaluate_split}\n"
    )
    print(f"{'metric':28} {'value':>10}  95 % interval")
    for name, metric in metrics.items():
        low, high = metric["interval"]
        print(f"{name:28} {metric['value']:10.4f}  [{low:.4f}, {high:.4f}]  {metric.get('unit', '')}".rstrip())
    if likelihood:
        print("\n" + "; ".join(f"{k}: {v}" for k, v in likelihood.items()))
    print(f"\nwritten: {path}")
