"""Does another caption change one attribute of a given scene, and keep all others?

    python experiments/caption_edits.py --workdir runs/text_flow_shapes --limit 200

For runs on `shapes` that are told captions. In the caption of each held-out scene one attribute is exchanged for
another of its kind, and the scene is edited under the new caption, as `genimg edit change` does: by the same noise
(`invert`), or by SDEdit (`vary`) from each of the --levels. All is read from the pixels: `changed` is the share of
results with the new attribute, `kept` that of results with everything else that the caption says, `both` that with
both, and `place` the mean intersection over union of the result's objects with those of the scene. Intervals are 95 %:
Wilson's, and Student's. Written: a picture with rows of scenes and of their edits, for each method.
"""

import argparse
import pathlib
import sys

import numpy as np

from genimg_jax import core
from genimg_jax.data import Part, loading, text
from genimg_jax.data.scene_layout import COLOURS, KINDS, OBJECT_COLOURS
from genimg_jax.engine import config_files, features, images, restore, runtime
from genimg_jax.engine import program as programs
from genimg_jax.engine.tasks import given_batches
from genimg_jax.errors import exit_code
from genimg_jax.evaluation import attributes, scene_reader
from genimg_jax.metrics import intervals
from genimg_jax.metrics.classifier_tests import proportion
from genimg_jax.metrics.intervals import Interval
from genimg_jax.tasks.editing import PREVIOUS, Edit

ATTRIBUTES = {
    "large_colour": (2, list(COLOURS)[:OBJECT_COLOURS]),
    "large_kind": (3, KINDS),
}  # place of the word
SHOWN = 16  # columns of a picture


def exchanged(captions: list[str], attribute: str) -> list[str]:
    """Each caption with the next value of the attribute that does not make both objects of a scene alike."""
    place, values = ATTRIBUTES[attribute]
    values, changed = list(values), []
    for caption in captions:
        words = caption.split()
        start = values.index(words[place])
        others = [values[(start + i) % len(values)] for i in range(1, len(values))]
        words[place] = next(value for value in others if value not in caption)
        changed.append(" ".join(words))
    return changed


def row(name: str, result: np.ndarray, captions: list[str], attribute: str, masks: np.ndarray) -> str:
    """A row of the table, of results f32[N, H, W, 3] in [-1, 1]."""
    scenes, wanted = scene_reader.read(images.to_uint8(result)), attributes.parse(captions)
    right, key = attributes.checks(scenes, wanted), attribute.removeprefix("large_")
    either = {**wanted, key: np.concatenate([scenes[key][:, :1], wanted[key][:, 1:]], 1)}
    kept = attributes.checks(scenes, either)["caption"]
    shares = (proportion(x.sum(), len(x)) for x in (right[attribute], kept, right["caption"]))
    place = intervals.mean(attributes.overlap(scenes["mask"], masks))
    cells = [f"{x.estimate:.1%} [{x.low:.1%}, {x.high:.1%}]" for x in shares] + [_number(place)]
    return f"| {name} | {attribute} | {' | '.join(cells)} |"


def _number(interval: Interval) -> str:
    return f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--checkpoint", default="best")
    parser.add_argument("--limit", type=int, default=200, help="scenes")
    parser.add_argument("--noise_levels", type=int, default=40)
    parser.add_argument("--levels", type=float, nargs="*", default=[0.6, 0.8])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("experiments/results"))
    return parser.parse_args()


def main() -> None:
    options = arguments()
    runtime.prepare(runtime.Options())
    run = restore.open_run(options.workdir, config_files.of_run(options.workdir), options.checkpoint)
    program, data = run.program, run.program.config.data
    source = features.open_source(data, Part.EVALUATE)
    index = np.arange(min(options.limit, source.size))
    given, captions = loading.rows(source, index)["image"], source.captions(index)
    vocabulary, length = text.load(data.captions.vocabulary), program.spec.fields["tokens"].shape[0]
    tokens = text.rows(vocabulary, captions, captions, length)
    original = given / np.float32(127.5) - 1
    masks = scene_reader.read(given)["mask"]
    print("| edit | attribute | changed | kept | both | place |\n| --- | --- | --- | --- | --- | --- |")
    edits = {"invert": Edit("invert", noise_levels=options.noise_levels)}
    for level in options.levels:
        edits[f"vary, level {level:g}"] = Edit("vary", level, options.noise_levels)
    for attribute in ATTRIBUTES:
        wanted = exchanged(captions, attribute)
        new, rows = text.rows(vocabulary, wanted, wanted, length), [original[:SHOWN]]

        def conditions(i: np.ndarray, new: np.ndarray = new) -> core.Batch:
            return {"tokens": new[i % len(new)], PREVIOUS + "tokens": tokens[i % len(new)]}

        for name, edit in edits.items():
            batches = given_batches(program, given, conditions)
            result = programs.run(program, edit, run.weights, batches, len(given), options.seed).image
            print(row(name, result, wanted, attribute, masks), flush=True)
            rows.append(result[:SHOWN])
        sheet = images.grid(images.to_uint8(np.concatenate(rows)), min(SHOWN, len(given)))
        images.save_png(options.out / f"caption_edits_{attribute}.png", sheet)


if __name__ == "__main__":
    sys.exit(exit_code(main))
