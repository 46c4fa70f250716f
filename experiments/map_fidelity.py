"""Do samples fill the segmentation maps that they are given, and is the style of one image kept in another one's map?

    python experiments/map_fidelity.py --workdir runs/spade_shapes

For runs on `shapes` that are conditioned on the map, such as `spade`, `gan` and `pix2pix`. Samples are given the maps
of the held-out scenes. If the family encodes images, the code of each scene is also decoded with the map of the next
scene that has the same segments. Everything is read from pixels: layouts are compared with the scene of the map, and
colours with the scene of the style. `mask_overlap` is the mean intersection over union of objects, as `genimg evaluate
--suite full` reports it of samples. `images` are the held-out scenes themselves, and what the scene of the map has of
the other's colours is chance. Intervals are 95 %: Wilson's, and Student's of the overlap. Written: a picture with rows
of styles, of scenes with the maps, and of these maps in those styles.
"""

import argparse
import pathlib
import sys

import numpy as np

from genimg_jax import core
from genimg_jax.data import Part, Source, loading
from genimg_jax.engine import config_files, features, images, restore, runtime, tasks
from genimg_jax.engine import program as programs
from genimg_jax.engine.restore import Restored
from genimg_jax.errors import exit_code
from genimg_jax.evaluation import attributes, scene_reader
from genimg_jax.metrics import intervals
from genimg_jax.metrics.classifier_tests import proportion
from genimg_jax.metrics.intervals import Interval

OF_STYLE = ("colour", "background")  # what a map leaves open


def next_alike(maps: np.ndarray) -> np.ndarray:  # integers [N, H, W] -> i64[N]
    """The next image, in turn, whose map has the same segments; an image that is alone has itself."""
    segments = np.stack([(maps == segment).any(axis=(1, 2)) for segment in range(maps.max() + 1)], 1)
    _, group = np.unique(segments, axis=0, return_inverse=True)
    partner = np.empty(len(maps), np.int64)
    for number in range(group.max() + 1):
        (members,) = np.nonzero(group.ravel() == number)
        partner[members] = np.roll(members, -1)
    return partner


def shares(pixels: np.ndarray, layout: dict[str, np.ndarray], style: dict[str, np.ndarray]) -> dict[str, Interval]:
    """The overlap with the masks, and the share of images with each attribute of layout and style."""
    # u8[N, S, S, 3]
    read = scene_reader.read(pixels)
    right = attributes.checks(read, {**layout, **{name: style[name] for name in OF_STYLE}})
    drawn, slots = layout["kind"] >= 0, layout["kind"].shape[1]
    right["all colours"] = ((read["colour"][:, :slots] == style["colour"]) | ~drawn).all(axis=1) & right["background"]
    overlap = intervals.mean(attributes.overlap(read["mask"], layout["mask"]))
    return {"mask_overlap": overlap} | {name: proportion(x.sum(), len(x)) for name, x in right.items() if len(x)}


def restyled(run: Restored, test: Source, style: np.ndarray, layout: np.ndarray, seed: int) -> np.ndarray:
    """Images in the style of some scenes, with the maps of others."""  # i64[N] x 2 -> u8[N, S, S, 3]

    def batch(index: np.ndarray) -> core.Batch:
        maps = loading.rows(test, layout[index % len(layout)])["map"]
        return {**loading.rows(test, style[index % len(style)]), "map": maps, "index": index.astype(np.int32)}

    size, count = programs.batch_size(run.program), len(style)
    batches = (batch(np.arange(start, start + size)) for start in range(0, count, size))
    _, drawn = programs.run(run.program, tasks.reconstruct_task, run.weights, batches, count, seed)
    return images.to_uint8(drawn)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--checkpoint", default="best")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("experiments/results"))
    options = parser.parse_args()
    runtime.prepare(runtime.Options())
    run = restore.open_run(options.workdir, config_files.of_run(options.workdir), options.checkpoint)
    test = features.open_source(run.program.config.data, Part.EVALUATE)
    index = np.arange(test.size)
    rows, scenes = loading.rows(test, index), test.annotations(index)
    print(f"{options.workdir}, step {run.step}, {test.size} scenes of {test.split}\n")
    samples = images.to_uint8(tasks.sample(run.program, run.weights, test.size, options.seed, source=test))
    found = {
        "images": shares(rows["image"], scenes, scenes),
        "samples": {n: x for n, x in shares(samples, scenes, scenes).items() if not any(o in n for o in OF_STYLE)},
    }
    if core.space_with(run.program.family, "encode"):
        layout = next_alike(rows["map"])
        style = index[layout != index]
        layout = layout[style]
        drawn = restyled(run, test, style, layout, options.seed)
        theirs, ours = ({name: x[at] for name, x in scenes.items()} for at in (layout, style))
        found["in the style of another"] = shares(drawn, theirs, ours)
        found["images, by chance"] = shares(rows["image"][layout], theirs, ours)
        sheet = [rows["image"][style[:16]], rows["image"][layout[:16]], drawn[:16]]
        options.out.mkdir(parents=True, exist_ok=True)
        path = options.out / f"map_fidelity_{options.workdir.name}.png"
        images.save_png(path, images.grid(np.concatenate(sheet), len(sheet[0])))
    print(f"| what | {' | '.join(found)} |\n{'| --- ' * (1 + len(found))}|")
    for what in found["images"]:
        cells = [f"{x.estimate:.1%} [{x.low:.1%}, {x.high:.1%}]" if x else "-" for x in (
            each.get(what) for each in found.values())]  # fmt: skip
        print(f"| {what} | {' | '.join(cells)} |")


if __name__ == "__main__":
    sys.exit(exit_code(main))
