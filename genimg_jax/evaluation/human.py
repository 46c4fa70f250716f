"""Human evaluation: a study of image sets, and the answers to it.

A study is a list of trials and the images they draw from. Every rater answers all trials. The rater's name decides the
first trial, its sides, and the first image of every set. Answers of different raters are then about different images:
the spread between raters, which intervals are computed from, includes the spread between images. Trials with noise are
attention checks; a rater who misses more of them than guessing allows is left out.
"""

import base64
import io
import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from genimg_jax import data, files
from genimg_jax.engine import config_files, restore, tasks
from genimg_jax.engine.images import to_uint8
from genimg_jax.errors import ConfigError, DataError
from genimg_jax.evaluation import named_sources
from genimg_jax.options import absolute, nearest

MODES = ("choice", "rating")
QUESTIONS = {"choice": "Which image looks more real?", "rating": "How real does this image look?"}
SCALE = 5  # of ratings: 1 is worst
NOISE = "noise"  # the set that attention checks are made with
FORMAT = "genimg human answers 1"
PASSES = 8  # checks, of which one may be missed: guessing passes one rater in 28

Item = tuple[str, int]  # a set's name and an image of it


class Study(NamedTuple):
    mode: str
    question: str
    sets: list[str]
    trials: list[list[Item]]
    """Left and right, or the one image to be rated."""
    images: dict[str, list[str]]
    """PNG files in base64, by set, noise included."""
    misses_allowed: int
    digest: str


class Answers(NamedTuple):
    """The checked answers of one rater. `page` is the digest of the study."""

    file: str
    page: str
    mode: str
    question: str
    sets: list[str]
    misses_allowed: int
    rater: str
    shown: list[list[Item]]
    given: list[int]
    """Which of the two shown was chosen, 0 or 1; or the rating, 1 to 5."""
    milliseconds: list[int]


# ---------------------------------------------------------------------------------------------------- the study


def images_of(place: str, count: int, seed: int, options: data.Options) -> np.ndarray:  # -> u8[N, H, W, C]
    """`count` samples of a run directory, or so many images of a source, drawn at random where it has more."""
    workdir = pathlib.Path(absolute(place))
    if (workdir / "config.json").is_file():
        opened = restore.open_run(workdir, config_files.of_run(workdir), "best")
        return to_uint8(tasks.sample(opened.program, opened.weights, count, seed))
    source = named_sources.open_named(named_sources.named(place, options, "--sets"), "--sets")
    chosen = np.sort(np.random.default_rng(seed).permutation(source.size)[:count])
    return np.round(source.read(chosen)["image"] * (255 / (source.stored_levels - 1))).astype(np.uint8)


def study(
    sets: Mapping[str, np.ndarray],
    mode: str = "choice",
    trials: int = 100,
    checks: int = 8,
    question: str = "",
    seed: int = 0,
) -> Study:  # name=[N, H, W, C]
    """A study of at least `trials` trials, as many as give every pair of sets the same number on either side (every set
    the same number, where single images are rated), and `checks` attention checks, spread over it.

    Checks in pairs show an image of the first set beside noise: let that be the best one, such as real data. Raises
    `ConfigError` where the sets cannot be shown side by side.
    """
    names = list(sets)
    _check_sets(sets, mode)
    rng = np.random.default_rng(seed)
    shown = _pairs(names, trials) if mode == "choice" else [[name] for name in names] * -(-trials // len(names))
    shown = [shown[i] for i in rng.permutation(len(shown))]
    # One check at a random place in each of `checks` parts of the list, the noise on alternating sides.
    edges = np.linspace(0, len(shown), checks + 1).astype(int)
    for i in reversed(range(checks)):
        check = [[names[0], NOISE], [NOISE, names[0]]][i % 2] if mode == "choice" else [NOISE]
        shown.insert(int(rng.integers(edges[i], edges[i + 1], endpoint=True)), check)
    next_image = {name: itertools.count() for name in [*names, NOISE]}
    planned = [[(name, next(next_image[name])) for name in trial] for trial in shown]
    noise = rng.integers(256, size=(checks, *sets[names[0]].shape[1:]), dtype=np.uint8)
    pictures = {name: [_png(image) for image in images] for name, images in {**sets, NOISE: noise}.items()}
    planned = [[(name, i % len(pictures[name])) for name, i in trial] for trial in planned]
    result = Study(mode, question or QUESTIONS[mode], names, planned, pictures, checks // PASSES, "")
    return result._replace(digest=files.digest(json.dumps(result), 12))


def _check_sets(sets: Mapping[str, np.ndarray], mode: str) -> None:
    if mode not in MODES:
        raise ConfigError(
            f"there is no mode {mode!r} of human evaluation{nearest(mode, MODES)} There are {', '.join(MODES)}."
        )
    if NOISE in sets:
        raise ConfigError(f"a set cannot be called {NOISE!r}, which is what attention checks are made with; rename it.")
    if len(sets) < (least := 2 if mode == "choice" else 1):
        raise ConfigError(f"{least} sets of images are needed at least, and there are {len(sets)}.")
    shapes = {name: images.shape[1:] for name, images in sets.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in shapes.items())
        raise ConfigError(f"raters would know the sets by the images' shapes: {listed}; make them alike.")
    for name, images in sets.items():
        if not len(images):
            raise ConfigError(f"there are no images in {name}.")


def _pairs(names: Sequence[str], trials: int) -> list[list[str]]:
    pairs = list(itertools.combinations(names, 2))
    each_side = -(-trials // (2 * len(pairs)))
    return [list(sides) for a, b in pairs for sides in ((a, b), (b, a))] * each_side


def _png(image: np.ndarray) -> str:  # [H, W, 1 or 3]
    content = io.BytesIO()
    image = to_uint8(image)
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(content, format="PNG", optimize=True)
    return base64.b64encode(content.getvalue()).decode()


# -------------------------------------------------------------------------------------------------- the answers


def read(files: Mapping[str, str]) -> list[Answers]:
    """The answers in files, {name: content}, of one page.

    Raises `DataError` naming the file that is damaged, incomplete, of another page, or of a rater read already.
    """
    if not files:
        raise DataError("there are no files of answers.")
    all_answers = [_answers(name, content) for name, content in files.items()]
    first, by_rater = all_answers[0], {}
    for answers in all_answers:
        if answers.page != first.page:
            raise DataError(
                f"{answers.file} answers the page {answers.page} and {first.file} the page {first.page}; score the "
                "answers to one page at a time."
            )
        if answers.rater in by_rater:
            raise DataError(
                f"{by_rater[answers.rater]} and {answers.file} are both of rater {answers.rater!r}; leave one out, or, "
                "if they are two people, give one of them another name in the file."
            )
        by_rater[answers.rater] = answers.file
    return all_answers


def _answers(file: str, content: str) -> Answers:
    try:
        record = json.loads(content)
    except ValueError as error:
        raise DataError(f"{file} is damaged ({error}); have it saved again from the page.") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise DataError(f"{file} holds no answers; give files that a page of genimg evaluate --human saved.")
    try:
        trials, answers = int(record["trials"]), list(record["answers"])
        mode, sets = str(record["mode"]), [str(name) for name in record["sets"]]
        rater = str(record["rater"]).strip()
        numbers = [int(answer["trial"]) for answer in answers]
        shown = [[(str(name), int(image)) for name, image in answer["shown"]] for answer in answers]
        responses = [int(answer["answer"]) for answer in answers]
        times = [int(answer["milliseconds"]) for answer in answers]
        head = str(record["page"]), mode, str(record["question"]), sets, int(record["misses_allowed"])
    except (KeyError, TypeError, ValueError) as error:
        problem = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{file} is damaged ({problem}); have it saved again from the page.") from error
    if len(set(numbers)) != len(numbers):
        raise DataError(f"{file} answers a trial twice; have it saved again from the page.")
    if sorted(numbers) != list(range(trials)):
        raise DataError(
            f"{file} holds {len(numbers)} of {trials} answers; have rater {rater!r} finish: the page goes on where it "
            "was left."
        )
    offered = (0, 1) if mode == "choice" else range(1, SCALE + 1)
    wanted = 2 if mode == "choice" else 1
    set_names = {*sets, NOISE}
    offers = all(len(trial) == wanted and {name for name, _ in trial} <= set_names for trial in shown)
    if mode not in MODES or not rater or not offers or not set(responses) <= set(offered):
        raise DataError(f"{file} is damaged (the page offers no such answers); have it saved again from the page.")
    return Answers(file, *head, rater, shown, responses, times)
