"""The likeliest caption of each image and its probability.

Candidates are the captions of the training images, or the lines of a file. A run that models captions too
(model.model_condition) weighs them by their own probability; to any other they are equally likely.
"""

import json
import pathlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from genimg_jax.commands.edits import job as jobs
from genimg_jax.commands.edits.job import Job
from genimg_jax.engine import conditions
from genimg_jax.engine.restore import Restored
from genimg_jax.errors import ResourceError
from genimg_jax.evaluation import captioning
from genimg_jax.files import write_atomic
from genimg_jax.options import location

SHOWN = 20  # rows of a printed table


@dataclass(frozen=True)
class Options:
    captions: str = location()  # a file with a candidate a line; "": those of the training images


def defaults(task: str, run: Restored) -> Options:
    return Options()


def method(job: Job) -> str:
    captioning.check(job.run.program)
    return f"Bayes' rule from a likelihood that is {job.run.program.family.likelihood_kind}, one for each candidate"


def perform(job: Job) -> pathlib.Path:
    """Writes a line per image. Prints the first lines as a table."""
    jobs.no_conditions(job, "finds the condition of images")
    inputs, run = jobs.inputs(job), job.run
    posterior = captioning.posterior(run.program, run.weights, inputs.images, _candidates(job))
    rows = []
    for i, (name, each) in enumerate(zip(inputs.names, posterior.probabilities, strict=True)):
        row = {"image": name, "caption": posterior.captions[each.argmax()], "probability": float(each.max())}
        rows.append({**row, "own_caption": inputs.captions[i]} if inputs.captions else row)
    print(f"{len(rows)} images, {len(posterior.captions)} candidates\n")
    for row in rows[:SHOWN]:
        print(f"{row['probability']:6.1%}  {row['image']}: {row['caption']}")
    write_atomic(job.out / "captions.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return job.out / "captions.jsonl"


def _candidates(job: Job) -> Iterable[str]:
    path = job.options.captions
    if not path:
        source = jobs.source(job, "train")
        return source.captions(np.arange(source.size)) if source.captions else []
    try:
        lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ResourceError(f"--task.captions {path} cannot be read: {error}.") from error
    candidates = [line.strip() for line in lines if line.strip()]
    for caption in candidates:
        conditions.parse(job.run.program, "tokens", caption)  # raises for a word that the run does not know
    return candidates
