"""The command line from end to end, and what it answers to mistakes."""

import functools
import json
import math
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pair_folders
import pytest
from PIL import Image
from tiny_runs import ROOT, SHARED, environment, name_of, steps, train

from genimg_jax import core, families
from genimg_jax.__main__ import COMMANDS, main
from genimg_jax.commands import command_line, sample
from genimg_jax.commands import train as train_command
from genimg_jax.data import Source, open_source
from genimg_jax.engine import conditions, config_files, images, run, tasks
from genimg_jax.engine import config as configs
from genimg_jax.engine import program as programs
from genimg_jax.evaluation import results

CONFIGS = sorted(p.stem for p in (ROOT / "configs").glob("*.py"))


def data_of(config: str, monkeypatch, folders: pytest.TempPathFactory) -> list[str]:
    """Flags that find the data of a configuration; skips where it is not there."""
    options = config_files.load(name_of(config)).data
    if options.source == "tfds" and options.name == "cifar10":  # what is shared is a JPEG copy of it
        place = SHARED / "tfds" / "cifar10_jpeg" / "1.0.0"
        if not place.is_dir():
            pytest.skip(f"there is no {place}")
        return ["--config.data.name=", f"--config.data.path={place}"]
    if options.source == "tfds":
        if not (SHARED / "tfds" / options.name).is_dir():
            pytest.skip(f"{SHARED / 'tfds'} has no {options.name}")
        monkeypatch.setenv("TFDS_DATA_DIR", str(SHARED / "tfds"))
    if options.source == "folder":
        place = SHARED / (pathlib.PurePath(options.path).name or "emoji64")
        if not place.is_dir():
            pytest.skip(f"there is no {place}")
        return [f"--config.data.path={place}"]
    if options.source in ("pairs", "domains"):
        if not (SHARED / "emoji64").is_dir():
            pytest.skip(f"there is no {SHARED / 'emoji64'}")
        pair_folders.link(SHARED / "emoji64", ("blob", "noto"), folders := folders.mktemp("styles"))
        return [f"--config.data.path={folders / 'blob'}", f"--config.data.{options.source}.partner={folders / 'noto'}"]
    return []


def untrained(workdir: str, variant: str, source: Source) -> programs.Program:
    """The run of a directory, untrained: the configuration of the directory's name."""
    values = config_files.load(f"{ROOT / 'configs' / pathlib.PurePath(workdir).name}.py{variant}")
    return programs.build(configs.resolve(values), source.spec, source.stored_levels)


def tokenizer_of(config: configs.Config, variant: str, source: Source) -> programs.Stage | None:
    """The first stage that a configuration names, untrained."""
    if not config.tokenizer.workdir:
        return None
    program = untrained(config.tokenizer.workdir, variant, source)
    weights = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), core.weights(program.abstract_state))
    return programs.Stage(program.family, weights, {})


def with_features(config: configs.Config, variant: str, source: Source) -> Source:
    """The source with features of the size that the encoder makes, if the configuration names one, all 0."""
    if not config.data.features.encoder:
        return source
    family, read = untrained(config.data.features.encoder, variant, source).family, source.read
    size = math.prod(core.space_with(family, "encode").spec.image_shape)
    spec = source.spec._replace(fields={"features": core.Field((size,))})
    return source._replace(spec=spec, read=lambda i: {**read(i), "features": np.zeros((len(i), size), np.float32)})


# The large ones take seconds each to trace.
LARGE = ("stylegan2_mnist", "stylegan2_shapes", "stylegan2_emoji", "vdm", "ddpm", "latent_diffusion")
NOT_DIGITS = ("stylegan2", *(config for config in CONFIGS if not config.endswith("_digits")))
VARIANTS = [
    pytest.param(
        config,
        variant and f":{variant}",
        id=f"{config}-{variant or 'full'}",
        marks=pytest.mark.slow if config.startswith(LARGE if variant else LARGE + NOT_DIGITS) else [],
    )
    for config in CONFIGS
    for variant in ("tiny", "")
]


@pytest.mark.parametrize(("config", "variant"), VARIANTS)
def test_every_variant_fits_its_data(config, variant, monkeypatch, tmp_path_factory):
    """Step, evaluation and samples have shapes, with the first of the configuration's own images."""
    flags = dict(flag.removeprefix("--config.").split("=") for flag in data_of(config, monkeypatch, tmp_path_factory))
    values = config_files.load(f"{ROOT / 'configs' / config}.py{variant}")
    values.update_from_flattened_dict({"data.limit": 512, **flags})
    resolved = configs.resolve(values)
    source = with_features(resolved, variant, open_source(resolved.data, resolved.data.train_split))
    program = programs.build(resolved, source.spec, source.stored_levels, tokenizer_of(resolved, variant, source))
    batch = next(programs.train_batches(program, source, 0))
    after, metrics = jax.eval_shape(program.step, program.abstract_state, batch, 0)
    assert jax.tree.map(lambda x: x.shape, after) == jax.tree.map(lambda x: x.shape, program.abstract_state)
    assert metrics.names and metrics.values.shape == (len(metrics.names),)
    rows = resolved.train.batch_size
    measured = jax.eval_shape(
        functools.partial(program.apply, tasks.evaluate_task), core.weights(program.abstract_state), batch, 0
    )
    assert measured and all(x.shape == (rows,) for x in measured.values())
    if program.family.sample is not None:
        index = np.arange(4, dtype=np.int32)
        asked = {"index": index, **conditions.rows(program, index, source=source)}
        sample = functools.partial(program.apply, tasks.sample_task)
        made = jax.eval_shape(sample, core.weights(program.abstract_state), asked, 0)
        assert made.shape == (4, *source.spec.image_shape)


# Every family is held to the contract; these differ in what commands do: labels, codes, completions, tokenizers.
ONE_EACH = [f"{name}_digits" for name in ("vae", "gan", "transformer", "latent")]


@pytest.mark.parametrize("config", [c if c in ONE_EACH else pytest.param(c, marks=pytest.mark.slow) for c in CONFIGS])
def test_a_configuration_trains_evaluates_samples_and_reports(config, tmp_path, tmp_path_factory, monkeypatch, capsys):
    values = configs.resolve(config_files.load(name_of(config)))
    flags = data_of(config, monkeypatch, tmp_path_factory)
    stages = {"tokenizer.workdir": values.tokenizer.workdir, "data.features.encoder": values.data.features.encoder}
    for key, first in stages.items():
        if first:
            assert train(tmp_path / "first", *flags, config=pathlib.PurePath(first).name) == 0
            flags.append(f"--config.{key}={tmp_path / 'first'}")
            tmp_path /= "run"
    assert train(tmp_path, *flags, config=config) == 0
    workdir = ["--workdir", str(tmp_path)]
    drawn, count = (["--reconstruct", "3"], 3) if values.family in ("vq", "vqgan") else (["--count", "3"], 3)
    assert main(["evaluate", *workdir]) == 0
    assert main(["sample", *workdir, *drawn]) == 0
    assert main(["report", *workdir]) == 0
    output = capsys.readouterr()
    assert "Traceback" not in output.err

    manifest, stored = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("manifest", "config"))
    assert manifest["config_digest"] == configs.digest(stored) and stored["family"] == values.family
    height, width, channels = shape = manifest["dataset"]["spec"]["image_shape"]

    evaluation = json.loads((tmp_path / "evaluation" / "best.json").read_text())
    assert evaluation["step"] in steps(tmp_path) and evaluation["metrics"]
    for name, metric in evaluation["metrics"].items():
        low, high = metric["interval"]
        assert low <= metric["value"] <= high and results.number(metric["value"]) in output.out, name
    if "bits_per_dimension" in evaluation["metrics"]:
        nats, bits = (evaluation["metrics"][k]["value"] for k in ("negative_log_likelihood", "bits_per_dimension"))
        assert bits == pytest.approx(nats / np.log(2) / (height * width * channels))
        assert "log-likelihood" in evaluation["protocol"]

    (made,) = (tmp_path / "generated").iterdir()
    pictures = np.load(made / "images.npz")["image"]
    assert pictures.shape == (count, *shape) and pictures.dtype == np.uint8
    for i, picture in enumerate(pictures):
        single = np.asarray(Image.open(made / f"{i:06d}.png")).reshape(shape)
        np.testing.assert_array_equal(single, picture)
    if drawn[0] == "--count":
        archive = np.load(made / "images.npz")
        names = archive["classes"] if "classes" in archive else np.arange(count).astype(str)
        captions = archive["caption"].tolist() if "caption" in archive else names[:count] if "label" in archive else ()
        grid = images.grid(pictures, captions=captions)
        np.testing.assert_array_equal(np.asarray(Image.open(made / "grid.png")).reshape(grid.shape), grid)
    logged = {line["step"] for line in run.read_metrics(tmp_path) if line["split"] == "train"}
    assert values.train.steps in logged
    assert f"{values.train.steps}.png" in {p.name for p in (tmp_path / "samples").iterdir()}
    assert values.family in (tmp_path / "report.html").read_text()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A conditional GAN: what the flags of `sample` and `evaluate` are tried on."""
    workdir = tmp_path_factory.mktemp("runs") / "gan"
    learning = ["--config.optimizer.generator.learning_rate=0.05", "--config.model.conditions=('label',)"]
    assert train(workdir, *learning, config="gan_digits") == 0
    return workdir


def test_a_grid_shows_the_first_of_many_and_every_image_is_written(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(sample, "GRID", 10)
    flags = ["--count", "13", "--config.evaluate.batch_size=4", "--out", str(tmp_path)]
    assert main(["sample", "--workdir", str(finished), *flags]) == 0
    pictures = np.load(tmp_path / "images.npz")["image"]
    assert len(pictures) == len(list(tmp_path.glob("0*.png"))) == 13
    grid = images.grid(pictures[:10], 10, captions=list("0123456789"))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "grid.png")), grid[..., 0])


def sampled(workdir, out, *flags: str) -> np.ndarray:
    named = ["--workdir", str(workdir), "--out", str(out), "--nosingles"]
    assert main(["sample", *named, *flags]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["grid.png", "images.npz"]
    return np.load(out / "images.npz")["image"].astype(int)


def test_the_flags_of_sample(finished, tmp_path):
    few = sampled(finished, tmp_path / "few", "--count", "3", "--seed", "5")
    many = sampled(finished, tmp_path / "many", "--count", "12", "--seed=5", "--config.evaluate.batch_size=8")
    assert many.shape[0] == 12 and np.abs(few - many[:3]).max() <= 1  # a level, by rounding
    one_class = sampled(finished, tmp_path / "class", "--count", "12", "--seed", "5", "--condition.label=1")
    same = [np.abs(a - b).max() <= 1 for a, b in zip(one_class, many, strict=True)]
    assert same == [i % 10 == 1 for i in range(12)]
    assert np.abs(sampled(finished, tmp_path / "other", "--count", "3", "--seed", "6") - few).max() > 1
    assert np.abs(sampled(finished, tmp_path / "plain", "--count", "3", "--seed=5", "--noaveraged") - few).max() > 0
    first = sampled(finished, tmp_path / "first", "--count", "3", "--seed", "5", "--checkpoint", "4")
    assert np.abs(first - few).max() > 1
    rows = sampled(
        finished, tmp_path / "rows", "--interpolate", "2", "--steps", "4", "--seed", "5", "--condition.label=1"
    )
    assert rows.shape[0] == 8
    assert np.abs(rows[[0, 3, 4, 7]] - one_class[:4]).max() <= 1


def test_the_flags_of_evaluate(finished, capsys):
    for flags in (["--checkpoint", "4"], ["--checkpoint", "last", "--noaveraged", "--config.evaluate.batch_size=99"]):
        assert main(["evaluate", "--workdir", str(finished), *flags]) == 0
    four, last = (json.loads((finished / "evaluation" / f"{name}.json").read_text()) for name in ("4", "last"))
    assert (four["step"], last["step"]) == (4, 6)
    assert four["protocol"]["weights"] == "averaged" and last["protocol"]["weights"] == "as trained"
    assert four["metrics"]["loss_generator"] != last["metrics"]["loss_generator"]
    assert main(["evaluate", "--workdir", str(finished), "--config.data.evaluate_split=test[:1]"]) == 0
    (finished / "evaluation" / "best.json").unlink()


def test_the_families_are_listed_with_what_they_can_do(capsys):
    assert main(["families"]) == 0
    listed = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[1:]}
    assert listed.keys() == set(families.REGISTRY)
    assert "log_prob" in listed["vae"] and "lower bound" in listed["vae"]
    assert "log_prob" not in listed["gan"] and "sample" in listed["gan"]
    assert "interpolate" in listed["gan"] and "reconstruct" not in listed["gan"] and "reconstruct" in listed["vq"]
    assert main(["families", "--family", "vae"]) == 0
    output = capsys.readouterr().out
    assert "Kingma" in output and re.search(r"model.likelihood +'bernoulli' +.*bernoulli", output)
    assert main(["families", "--family", "vea"]) == 2
    assert "did you mean 'vae'?" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------ mistakes

VAE = ["--config", name_of("vae_digits")]
HERE = ["--workdir", "UNUSED"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], None),
        (["trian"], "no command 'trian'; did you mean 'train'?"),
        (["frobnicate"], "no command 'frobnicate'.\nusage:"),
        (["train"], "which experiment? Give --config"),
        (["train", "--config"], "--config needs a value"),
        (["train", *VAE], "which run? Give --workdir"),
        (["train", *VAE, *HERE, "--stepps=5"], "Unknown command line flag 'stepps'"),
        (["train", *VAE, *HERE, "more"], "takes flags only, found 'more'"),
        (["train", *VAE, *HERE, *HERE], "--workdir is given 2 times"),
        (["train", *VAE, *VAE, *HERE], "--config is given 2 times"),
        (["train", *VAE, *HERE, "--config.seed=1", "--config.seed", "2"], "--config.seed is given 2 times"),
        (["train", *VAE, *HERE, "--config.train.stepps=5"], "did you mean '--config.train.steps'?"),
        (["train", *VAE, *HERE, "--config.stepz=5"], "--config.stepz is not in the configuration"),
        (["train", *VAE, *HERE, "--config.warmup_steps=5"], "did you mean '--config.optimizer.warmup_steps'?"),
        (["train", *VAE, *HERE, "--config.train.steps=many"], "many"),
        (["train", *VAE, *HERE, "--config.train.steps=1.5"], "1.5"),
        (["train", *VAE, *HERE, "--config.train.steps=0"], "config.train.steps is 0; it must be at least 1"),
        (["train", *VAE, *HERE, "--config.optimizer.learning_rate=fast"], "fast"),
        (["train", *VAE, *HERE, "--config.data.flip=perhaps"], "perhaps"),
        (["train", *VAE, *HERE, "--config.model.network=cnn"], "config.model.network is 'cnn'"),
        (["train", *VAE, *HERE, "--config.optimizer.name=adamm"], "did you mean 'adam'?"),
        (["train", *VAE, *HERE, "--config.seed=-1"], "config.seed is -1"),
        (
            ["train", *VAE, *HERE, "--config.optimizer.arguments.beta1=0.5"],
            "arguments.beta1 is no argument of optax.adam",
        ),
        (
            ["train", *VAE, *HERE, "--config.optimizer.arguments={'b3': 1}"],
            "arguments.b3 is no argument of optax.adam; did",
        ),
        (["train", *VAE, *HERE, "--config.optimizer.arguments=0.5"], "is 0.5; it must be a dict such as {'b1': 0.5}"),
        (["train", *VAE, *HERE, "--config.optimizer.arguments.b1=half"], "cannot work with {'b1': 'half'}"),
        (["train", *VAE, *HERE, "--config.optimizer.arguments.b1.x=1"], "has the name 'b1.x'"),
        (["train", *VAE, *HERE, "--config.optimizer.arguments={'b-1': 1}"], "has the name 'b-1'"),
        (["train", *VAE, *HERE, "--config.optimizer.argument.b1=1"], "--config.optimizer.argument.b1 is not in the"),
        (["train", *VAE, *HERE, "--config.optimizer.argumens={}"], "did you mean '--config.optimizer.arguments'?"),
        (
            ["train", *VAE, *HERE, "--noconfig.optimizer.arguments.nesterov"],
            "--config.optimizer.arguments.nesterov needs",
        ),
        (["train", "--config", "configs/vae_digit.py", *HERE], "no config file configs/vae_digit.py"),
        (["train", "--config", name_of("vae_digits"), *HERE, "--dry_run=maybe"], "maybe"),
        (["evaluate"], "which run? Give --workdir"),
        (["evaluate", "--workdir", "nowhere"], "nowhere is no run directory"),
        (["sample", "--workdir", "nowhere"], "nowhere is no run directory"),
        (["report", "--workdir", "nowhere"], "nowhere is no run directory"),
        (["families", "--familly=vae"], "familly"),
    ],
)
def test_a_mistake_is_answered_with_a_sentence(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    assert main([argument.replace("UNUSED", str(tmp_path / "unused")) for argument in arguments]) == 2
    output = capsys.readouterr()
    assert "Traceback" not in output.err and not list((tmp_path / "unused").glob("*.json"))
    if message is None:
        assert output.out.startswith("usage: genimg COMMAND")
    else:
        assert output.err.startswith("genimg: ") and message in output.err


def parsed(*flags: str, config: str = "vae_digits") -> dict:
    """The configuration that `train` is given by its flags."""
    arguments = ["--config", name_of(config), *flags]
    return command_line.parse("train", "", train_command.define, arguments, "file").config.to_dict()


@pytest.mark.parametrize(
    ("flags", "arguments"),
    [
        (["--config.optimizer.arguments={'b1': 0.5}"], {"b1": 0.5}),
        (["--config.optimizer.arguments", "{'b1': 0.5, 'nesterov': True}"], {"b1": 0.5, "nesterov": True}),
        (["--config.optimizer.arguments.b1=0.5", "--config.optimizer.arguments.eps", "1e-6"], {"b1": 0.5, "eps": 1e-6}),
        (["--config.optimizer.arguments.b2=0.9", "--config.optimizer.arguments={'b1': 0.5}"], {"b1": 0.5, "b2": 0.9}),
        (["--config.optimizer.arguments.mu_dtype=bfloat16"], {"mu_dtype": "bfloat16"}),
        (["--config.optimizer.arguments={}"], {}),
    ],
)
def test_arguments_of_an_optimiser_are_given_by_flags(flags, arguments):
    found = parsed(*flags)
    assert found["optimizer"]["arguments"] == arguments
    assert configs.resolve(found).optimizer["model"].arguments == arguments
    beside = parsed("--config.optimizer.generator.arguments.b2=0.9", config="gan_digits")["optimizer"]
    given = config_files.load(name_of("gan_digits")).optimizer.generator.arguments.to_dict()
    assert given and beside["generator"]["arguments"] == {**given, "b2": 0.9}


@pytest.mark.parametrize("text", ["(1,2)", "1,2", "[1,2]", "(1, 2)"])
def test_a_tuple_is_written_as_one_likes(text):
    found = parsed(f"--config.model.multipliers={text}", config="diffusion_digits")
    assert configs.resolve(found).model.multipliers == (1, 2)
    assert configs.resolve(parsed("--config.model.multipliers=3", config="diffusion_digits")).model.multipliers == (3,)


def test_a_list_holds_names_that_hold_commas():
    names = {"beta=1.0,seed=0", "beta=1.0", "x,y,z", "z"}

    def listed(*texts):
        return command_line.items(texts, names.__contains__)

    assert listed("beta=1.0,seed=0,x,y,z") == listed("beta=1.0,seed=0", "x,y,z") == ["beta=1.0,seed=0", "x,y,z"]
    assert listed("beta=1.0,seed=1, z ,") == ["beta=1.0", "seed=1", "z"]
    assert listed("", ",") == listed() == []


def test_paths_are_absolute_where_they_are_given(tmp_path, monkeypatch):
    """A run that starts from another, by ~ and by a relative path, is the same run from another working directory."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for place in (home, elsewhere):
        place.mkdir()
    (home / "mine.py").write_bytes((ROOT / "configs" / "vae_digits.py").read_bytes())
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)

    def trained(*flags):
        return main(["train", "--config=~/mine.py:tiny", "--config.parallel.devices=1", *flags])

    assert trained("--workdir=~/first", "--config.train.steps=2") == 0
    start = ["--config.train.steps=2", "--config.init_from"]
    assert trained("--workdir", "second", *start, "first") == 0
    stored = json.loads((home / "second" / "config.json").read_text())
    assert stored["init_from"] == str(home / "first")
    monkeypatch.chdir(elsewhere)
    assert trained("--workdir=~/second", *start, "~/first", "--config.train.log_every=1") == 0
    assert trained("--workdir=third", "--config.train.steps=3", "--config.resume=~/second") == 4, "of another init_from"
    assert trained("--workdir=third", "--config.train.steps=3", "--config.resume=../home/first") == 0
    assert steps(elsewhere / "third") == [3]
    assert main(["sample", "--workdir=~/second", "--out=~/drawn", "--count=2"]) == 0
    assert (home / "drawn" / "images.npz").is_file()
    assert main(["report", "--workdir=~/second"]) == 0


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--checkpoint", "5"], 4, "no checkpoint 5"),
        (["--count", "0"], 2, "--count"),
        (["--seed", "-1"], 2, "--seed"),
        (["--steps", "1", "--interpolate", "1"], 2, "--steps"),
        (["--condition.label=10"], 2, "class 10 is not one of 0 to 9"),
        (["--config.model.width=8"], 4, "model.width"),
        (["--config.model.widht=8"], 2, "did you mean '--config.model.width'?"),
    ],
)
def test_a_mistake_about_a_run_is_answered_with_a_sentence(finished, tmp_path, capsys, flags, code, message):
    assert main(["sample", "--workdir", str(finished), "--out", str(tmp_path / "out"), *flags]) == code
    error = capsys.readouterr().err
    assert error.startswith("genimg: ") and message in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_a_place_for_samples_that_cannot_be_written_is_known_before_they_are_made(finished, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert main(["sample", "--workdir", str(finished), "--out", str(out)]) == 6
        assert f"cannot write to {out}: Not a directory; choose another --out." in capsys.readouterr().err


def test_a_reader_that_stops_is_no_error():
    command = f"{sys.executable} -m genimg_jax families | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.splitlines()[1:] == ["0"] and "Traceback" not in done.stderr and "ignored" not in done.stderr


def test_a_damaged_run_directory(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"family": "va')
    assert main(["evaluate", "--workdir", str(tmp_path)]) == 2
    assert f"{tmp_path / 'config.json'} is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_a_command_does(command, capsys):
    with pytest.raises(SystemExit) as exit:
        main([command, "--help"])
    assert exit.value.code == 0
    output = capsys.readouterr().out
    assert output.startswith(f"genimg {command}: ") and "--" in output
    if command == "train":
        assert all(f"--{flag}" in output for flag in ("config", "workdir", "dry_run", "force_resume", "config.SECTION"))


WITHOUT_JAX = """
import sys
from genimg_jax.__main__ import main
codes = []
for arguments in {cases}:
    try:
        codes.append(main(arguments))
    except SystemExit as exit:
        codes.append(exit.code)
print(codes, [m for m in ("jax", "flax", "optax", "tensorflow") if m in sys.modules])
"""


def test_help_and_usage_errors_need_no_jax():
    cases = [["--help"], ["help"], [], ["trian"], ["train"], ["evaluate"], ["sample"], ["report", "--workdirr=x"]]
    cases += [["evaluate", "--workdir", "a", "--workdir", "b"], *([command, "--help"] for command in COMMANDS)]
    wanted = [0, 0, 2, 2, 2, 2, 2, 2, 2] + [0] * len(COMMANDS)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_JAX.format(cases=cases)], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{wanted} []"


def test_the_module_leaves_with_the_code():
    command = [sys.executable, "-m", "genimg_jax", "train", "--config"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("genimg: --config needs a value")
