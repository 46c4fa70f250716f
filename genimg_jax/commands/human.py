"""genimg evaluate --human and --answers: a page of images for people to compare, and what their answers say."""

import os
import pathlib

from absl import flags

from genimg_jax.commands import command_line
from genimg_jax.errors import ConfigError, DataError, ResourceError
from genimg_jax.options import absolute

ABOUT = """
People compare sets of images on a page that works offline and saves a file of answers:

  genimg evaluate --human study.html --sets data=tfds:mnist:test,vae=runs/vae_mnist,gan=runs/gan_mnist_0
  genimg evaluate --answers answers-anna.json,answers-ben.json

A set is a run directory, meaning its samples, or a source. Attention checks show the first one beside noise: let that
be the best. Scores are Bradley and Terry's, in log odds; with --mode=rating, means of 1 to 5. Fifteen raters or more
make good intervals."""
FLAGS = ("sets", "mode", "question", "trials", "checks", "images", "seed", "keep_failed")


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("human", None, "page to write for people to compare sets of images", flag_values=values)
    flags.DEFINE_multi_string(
        "sets", [], "for --human: what is compared, NAME=PLACE,NAME=PLACE,...", flag_values=values
    )
    modes = ["choice", "rating"]
    flags.DEFINE_enum("mode", "choice", modes, "for --human: the better of two, or 1 to 5 for one", flag_values=values)
    flags.DEFINE_string("question", "", "for --human: what people are asked", flag_values=values)
    flags.DEFINE_integer("trials", 100, "for --human: questions a rater, at least", 1, flag_values=values)
    flags.DEFINE_integer("checks", 8, "for --human: attention checks besides", 0, flag_values=values)
    flags.DEFINE_integer("images", 200, "for --human: images of each set to draw from", 1, flag_values=values)
    flags.DEFINE_integer("seed", 0, "for --human: of images, sides and order", 0, 2**31 - 1, flag_values=values)
    flags.DEFINE_multi_string("answers", [], "files that raters saved, to be scored", flag_values=values)
    flags.DEFINE_bool("keep_failed", False, "for --answers: count raters who missed checks too", flag_values=values)


def write(values: flags.FlagValues) -> None:
    """Writes the page. `values.config` has the sections `data`, for how sources are read, and `evaluate`."""
    from genimg_jax import data
    from genimg_jax.evaluation import human, named_sources
    from genimg_jax.files import write_atomic
    from genimg_jax.options import parse
    from genimg_jax.reports.human_page import page

    def exists(text: str) -> bool:
        path, split = named_sources.place(text.partition("=")[2])
        return path is not None and "," not in split

    sets = command_line.items(values.sets, exists)
    named = [part.partition("=") for part in sets]
    if not named or not all(name and place for name, _, place in named):
        raise ConfigError("which sets? Give --sets NAME=PLACE,NAME=PLACE, such as --sets data=digits,vae=runs/vae.")
    if len({name for name, _, _ in named}) < len(named):
        raise ConfigError("two of the --sets have one name; give each its own.")
    read = parse(data.Options, values.config.data.to_dict(), "config.data")
    sets = {name: human.images_of(place, values.images, values.seed, read) for name, _, place in named}
    study = human.study(sets, values.mode, values.trials, values.checks, values.question, values.seed)
    content = page(study, next(iter(sets.values())).shape[1:]).encode()
    path = pathlib.Path(absolute(values.human))
    try:
        write_atomic(path, content)
    except OSError as error:
        raise ResourceError(f"cannot write {path}: {error.strerror}; choose another --human.") from error
    print(f"written: {path}, {len(study.trials)} trials of {', '.join(sets)}, {len(content) / 2**20:.1f} MiB")
    print("Send it to raters; then genimg evaluate --answers FILE,FILE,... with what they saved.")


def read(values: flags.FlagValues) -> None:
    """Prints the scores, and writes them to `human.json` in --out, or beside the first file of answers."""
    from genimg_jax.evaluation import human, human_scores
    from genimg_jax.files import write_json

    answers = command_line.items(values.answers, lambda text: os.path.exists(absolute(text)))
    if not answers:
        raise ConfigError("which answers? Give --answers FILE,FILE,...")
    paths = [pathlib.Path(absolute(path)) for path in answers]
    files = {}
    for path in paths:
        try:
            files[str(path)] = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"--answers: {path} cannot be read ({error}); give files that raters saved.") from error
    report = human_scores.scores(human.read(files), values.keep_failed)
    out = (pathlib.Path(absolute(values.out)) if values.out else paths[0].parent) / "human.json"
    write_json(out, report)
    print(f"{human_scores.text(report)}\n\nwritten: {out}")
