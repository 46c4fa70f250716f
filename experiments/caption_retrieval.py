"""Which of 100 captions does a judge choose for a sample, and which for the real image with the sample's caption?

    python experiments/caption_retrieval.py --workdir runs/text_latent_emoji --judge runs/text_transformer_emoji

For each held-out image the run draws a sample under the image's conditions. A judge is a caption-conditioned run on the
same data. It chooses among the image's caption and 99 others of held-out images by log p(image | caption) where that is
exact or a bound, else by the smallest loss of denoising (Li et al. 2023). The run is its own judge too: it recognises
its own mistakes as right, so that its share of samples says less than another judge's. Intervals are Wilson's, of 95 %.
"""

import argparse
import pathlib
import sys

import numpy as np

from genimg_jax.data import Part, loading
from genimg_jax.engine import candidates, config_files, features, images, restore, runtime, tasks
from genimg_jax.errors import exit_code
from genimg_jax.evaluation import zero_shot
from genimg_jax.metrics.classifier_tests import proportion

OTHERS = 99


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--judge", type=pathlib.Path, nargs="*", default=[])
    parser.add_argument("--checkpoint", default="best")
    parser.add_argument("--times", type=int, default=32, help="noise levels of a loss of denoising")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    runtime.prepare(runtime.Options())
    made = None
    print("| judge | score | candidates | real images | samples |\n| --- | --- | --- | --- | --- |")
    for judge in [options.workdir, *options.judge]:
        values = config_files.of_run(judge)
        if "evaluate_times" in values["model"]:
            values["model"]["evaluate_times"] = options.times
        run = restore.open_run(judge, values, options.checkpoint)
        test = features.open_source(run.program.config.data, Part.EVALUATE)
        rows = {**loading.rows(test, np.arange(test.size)), "index": np.arange(test.size, dtype=np.int32)}
        if made is None:
            given = {name: rows[name] for name in run.program.family.conditions}
            made = images.to_uint8(tasks.sample(run.program, run.weights, test.size, options.seed, given))
        estimate = run.program.family.likelihood_kind in ("estimate", None)
        score = candidates.negative_loss if estimate else candidates.log_prob
        captions, true_index, among = zero_shot.candidates_of(
            run.program.spec.conditions["tokens"], rows["tokens"], OTHERS + 1
        )
        shown = []
        for each in (rows["image"], made):
            examples = {**rows, "image": each}
            logs = candidates.scores(run.program, run.weights, examples, "tokens", captions[among], score)
            right = among[np.arange(test.size), logs.argmax(axis=1)] == true_index
            share = proportion(right.sum(), test.size)
            shown.append(f"{share.estimate:.1%} [{share.low:.1%}, {share.high:.1%}]")
        name = score.__name__.replace("_", " ")
        print(f"| {judge.name}, step {run.step} | {name} | {among.shape[1]} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    sys.exit(exit_code(main))
