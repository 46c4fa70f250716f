"""Configurations: what they hold, what is wrong with them, and that every leaf of them is read."""

import contextlib
import dataclasses
import os
import re
import sys

import numpy as np
import pytest
from PIL import Image
from tiny_runs import ROOT, change, name_of, train

from genimg_jax import core, families
from genimg_jax.__main__ import main
from genimg_jax.data import Part, open_source
from genimg_jax.engine import config as configs
from genimg_jax.engine import config_files, features, optimizers
from genimg_jax.engine import program as programs
from genimg_jax.engine.config_differences import MOVABLE, differences
from genimg_jax.errors import ConfigError, DataError
from genimg_jax.options import absolute, parse

# --------------------------------------------------------------------------------------------------- configurations


def test_differences_say_what_is_safe():
    one, two = (configs.experiment("vae").to_dict() for _ in range(2))
    two["train"] |= {"log_every": 7, "steps": 2000}
    two["model"]["latent"], two["resume"], two["init_from"] = 3, "elsewhere", "elsewhere"
    found = {d.key: d.safe for d in differences(one, two)}
    assert found == {
        "train.log_every": True,
        "train.steps": True,
        "resume": True,
        "init_from": False,
        "model.latent": False,
    }
    two["optimizer"]["schedule"] = one["optimizer"]["schedule"] = "cosine"
    assert not {d.key: d.safe for d in differences(one, two)}["train.steps"]
    assert differences(one, one) == []


def test_what_training_does_not_read_is_safe_to_change():
    one, two = (configs.experiment("diffusion").to_dict() for _ in range(2))
    two["model"] |= {"steps": 50, "solver": "euler", "sigma_data": 0.4}
    assert {d.key: d.safe for d in differences(one, two)} == {
        "model.steps": True,
        "model.solver": True,
        "model.sigma_data": False,
    }
    assert configs.digest(one) != configs.digest({**one, "model": {**one["model"], "steps": 50}})
    one, two = (configs.experiment("transformer").to_dict() for _ in range(2))
    two["model"] |= {"temperature": 0.5, "top_k": 3, "top_p": 0.9, "candidates": 2}
    assert [d.safe for d in differences(one, two)] == [True] * 4


def test_the_digest_changes_with_whatever_changes_the_result():
    """Every leaf is changed in turn; the digest follows exactly where `differences` says unsafe."""
    base = configs.experiment("gan").to_dict()
    other = {bool: lambda v: not v, str: lambda v: v + "x", tuple: lambda v: (*v, 1), dict: lambda v: {"b1": 0.5}}
    paths = [k.split(".") for k in configs.flatten(base)] + [["optimizer", "generator", "arguments"]]
    safe = 0
    for *sections, last in paths:
        changed = configs.experiment("gan").to_dict()
        at = changed
        for name in sections:
            at = at[name]
        at[last] = other.get(type(at[last]), lambda v: v + 1)(at[last])
        (difference,) = differences(base, changed)
        # Safe to go on with, but another result.
        unsafe = not difference.safe or difference.key in ("train.steps", *MOVABLE)
        assert (configs.digest(base) != configs.digest(changed)) == unsafe, difference
        safe += not unsafe
    assert 0 < safe < len(paths)


def test_a_path_is_one_however_it_is_reached(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    ways = ("runs/vq", "./runs/../runs/vq/", "~/runs/vq", f"{tmp_path}/runs/vq")
    found = []
    for way in ways:
        values = configs.experiment("vae").to_dict()
        for key in configs.PATHS:
            change(values, key, way)
        config = configs.resolve(values)
        places = (
            config.resume,
            config.init_from,
            config.data.path,
            config.tokenizer.workdir,
            config.evaluate.inception,
            config.runtime.compilation_cache,
        )
        assert (
            set(places)
            == {f"{tmp_path}/runs/vq"}
            == {configs.flatten(configs.located(values))[k] for k in configs.PATHS}
        )
        found.append(values)
    assert len({configs.digest(values) for values in found}) == 1
    assert not any(differences(found[0], values) for values in found)
    none = configs.resolve(configs.experiment("vae", runtime={"compilation_cache": "off"}))
    assert none.runtime.compilation_cache == "off"
    assert (none.resume, none.data.path, none.tokenizer.workdir) == ("", "", "") and absolute("gs://a/b") == "gs://a/b"


def test_a_file_lies_where_its_name_says_even_with_colons(tmp_path):
    (tmp_path / "a:b").mkdir()
    for name in ("mine.py", "mi:ne.py"):
        (tmp_path / "a:b" / name).write_text(HEAD + "    return experiment('vae', seed=len(variant))\n")
        assert config_files.load(f"{tmp_path}/a:b/{name}").seed == 4
        assert config_files.load(f"{tmp_path}/a:b/{name}:tiny1").seed == 5


TUPLES = [
    (kind, field)
    for kind in [*configs.SECTIONS.values(), optimizers.Options, *(families.load(f).Options for f in families.REGISTRY)]
    for field in dataclasses.fields(kind)
    if str(field.type).startswith("tuple") and "low" in field.metadata
]


@pytest.mark.parametrize(("kind", "field"), TUPLES, ids=[f"{k.__module__}.{f.name}" for k, f in TUPLES])
def test_every_element_of_a_tuple_is_checked(kind, field):
    def parsed(value):
        return getattr(parse(kind, {**dataclasses.asdict(kind()), field.name: value}, "x"), field.name)

    low, high = field.metadata["low"], min(field.metadata["high"], 1000)
    number = int if "int" in str(field.type) else float
    good = (number(low), number(high))
    assert parsed(list(good)) == parsed(good) == good and all(type(one) is number for one in parsed(good))
    for wrong in ("a", None, True, (1,), 0.5 if number is int else "0.1", low - 1, -1, float("nan"), number(0)):
        with pytest.raises(ConfigError, match=rf"x\.{field.name}\[1\] is"):
            parsed((good[0], wrong))
    if field.metadata["empty"]:
        assert parsed(()) == ()
    else:
        with pytest.raises(ConfigError, match=f"x.{field.name} is empty"):
            parsed(())


HEAD = "from genimg_jax.engine.config import experiment\n\n\ndef get_config(variant='full'):\n"


@pytest.mark.parametrize(
    ("section", "line", "message"),
    [
        ('model={"latent": 4,\n"widht": 8}', 6, "config.model.widht is not an option; did you mean 'width'?"),
        ('modle={"latent": 4}', 5, "config.modle is not an option; did you mean 'model'?"),
        ('train={\n"steps": "100"}', 6, "config.train.steps is '100', a str; it must be a int"),
        ('train={"steps": 1.5}', 5, "config.train.steps is 1.5, a float"),
        ('train={"steps": True}', 5, "config.train.steps is True, a bool"),
        ('train={"steps": 0}', 5, "config.train.steps is 0; it must be at least 1"),
        ('optimizer={"learning_rate": "1e-4"}', 5, "config.optimizer.learning_rate is '1e-4', a str"),
        ('evaluate={"likelihood": "false"}', 5, "config.evaluate.likelihood is 'false', a str; it must be a bool"),
        ('model={"network": "cnn"}', 5, "config.model.network is 'cnn'"),
        ('data={"source": "digit"}', 5, "digit"),
        ('model={"latent": 4,\n "width": 8,\n "latent": 5}', 7, "the key 'latent' is given twice"),
        ('model={"latent": unknown}', 5, "NameError"),
        ('model={"latent": 4', 5, "SyntaxError"),
        ("[]", 5, "TypeError"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_its_line(tmp_path, section, line, message):
    file = tmp_path / "broken.py"
    file.write_text(f'{HEAD}    return experiment("vae", {section})\n')
    with pytest.raises(ConfigError) as caught:
        config_files.load(str(file))
    assert str(caught.value).startswith(f"{file}:{line}: ")
    assert message in str(caught.value)


def test_other_things_a_file_can_lack(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(HEAD + "    return {}\n")
    with pytest.raises(ConfigError, match="get_config returned dict"):
        config_files.load(str(file))
    file.write_text("x = 1\n")
    with pytest.raises(ConfigError, match="get_config"):
        config_files.load(str(file))
    with pytest.raises(ConfigError, match=r"no config file .*your\.py; config files beside it: .*mine\.py"):
        config_files.load(str(tmp_path / "your.py"))


def test_a_variant_changes_what_it_names_and_another_name_is_refused():
    full, tiny = (config_files.load(f"configs/vae_digits.py{variant}") for variant in ("", ":tiny"))
    assert (full.train.steps, tiny.train.steps) == (4000, 6)
    assert full.data == tiny.data and full.train.best == tiny.train.best
    with pytest.raises(ConfigError, match=r"vae_digits\.py:\d+: there is no variant 'tinny'.*did you mean 'tiny'"):
        config_files.load("configs/vae_digits.py:tinny")
    with pytest.raises(ConfigError, match=r"config\.model\.wdith is not an option; did you mean 'width'"):
        configs.experiment("vae", "small", {"small": {"model": {"wdith": 3}}})


def test_a_variant_is_passed_on_and_defaults_are_filled_in():
    tiny, full = config_files.load(name_of("vae_digits")), config_files.load(str(ROOT / "configs" / "vae_digits.py"))
    assert tiny.model.width < full.model.width
    assert tiny.train.keep == configs.TrainOptions().keep
    assert configs.resolve(tiny).model.width == tiny.model.width


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seed", -1, "config.seed is -1; it must be between 0"),
        ("seed", 2**31, "config.seed is 2147483648"),
        ("seed", 1.0, "config.seed is 1.0; it must be a int"),
        ("resume", None, "config lacks resume"),
        ("train.keep", None, "config.train lacks keep"),
        ("family", "vea", "family is 'vea'; did you mean 'vae'?"),
        ("optimizer", {"generatr": {}}, "config.optimizer has groups"),
        ("extra", 1, "config.extra is not an option"),
    ],
)
def test_a_resolved_configuration_is_complete_and_in_range(key, value, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        configs.resolve(change(configs.experiment("gan").to_dict(), key, value))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.microbatches", 3, "train.microbatches is 3, which does not divide 16"),
        ("parallel.fsdp", 3, "parallel.fsdp is 3, which does not divide the 4 devices"),
        ("parallel.devices", 5, "parallel.devices is 5, but there are 4"),
        ("train.batch_size", 6, "train.batch_size is 6, which 4 devices cannot share"),
        ("model.conditions", ("label",), "the data gives only images"),
    ],
)
def test_a_program_that_cannot_work_is_refused_before_compiling(key, value, message):
    config = configs.resolve(change(config_files.load(name_of("vae_digits")).to_dict(), key, value))
    with pytest.raises(ConfigError, match=re.escape(message)):
        programs.build(config, core.Spec((8, 8, 1), 0, 2), 17)


def test_the_best_metric_must_be_measured(tmp_path, capsys):
    for flags, found in (
        (["--config.train.best=lss"], "does not measure; did you mean 'loss'? It measures kl, loss, reconstruction."),
        (["--config.train.evaluate_every=0"], "nothing is measured: train.evaluate_every is 0"),
        (["--config.data.validation_split=none"], "data.validation_split 'none'"),
        (["--config.train.best=kl"], "'kl', of which neither higher nor lower is better; choose loss, reconstruction."),
    ):
        assert train(tmp_path, *flags) == 2
        assert found in capsys.readouterr().err
    assert not (tmp_path / "checkpoints").exists()


# --------------------------------------------------------------------------- every leaf of a configuration is read


def kinds() -> dict[str, type]:
    inner = {f"data.{f.name}": f.default_factory for f in dataclasses.fields(configs.SECTIONS["data"])}
    inner = {name: kind for name, kind in inner.items() if dataclasses.is_dataclass(kind)}
    return {**configs.SECTIONS, "optimizer": optimizers.Options, **inner}


def unread(monkeypatch, exercise) -> set[str]:
    """Fields of the sections' options that `exercise` never reads; checking, comparing and copying do not count."""
    found = {f"{name}.{field.name}" for name, kind in kinds().items() for field in dataclasses.fields(kind)}
    for name, kind in kinds().items():

        def read(self, field, name=name):
            caller = sys._getframe(1).f_code.co_filename
            if os.path.basename(caller) not in ("dataclasses.py", "options.py", "<string>"):
                found.discard(f"{name}.{field}")
            return object.__getattribute__(self, field)

        monkeypatch.setattr(kind, "__getattribute__", read, raising=False)
    exercise()
    return found


def use_everything(tmp_path):
    """Train, evaluate and sample, with the branches of the options that a single run does not take."""

    def exercise():
        workdir = tmp_path / "run"
        flags = ["--config.data.source=folder", f"--config.data.path={tmp_path / 'images'}", "--config.train.steps=2"]
        flags += ["--config.parallel.fsdp=2"]
        assert train(workdir, *flags, devices=2) == 0
        assert main(["evaluate", "--workdir", str(workdir)]) == 0
        digits = ["--config.data.source=digits", "--config.evaluate.samples=16", "--config.evaluate.likelihood=False"]
        digits.append("--config.evaluate.features=classifier")
        assert main(["evaluate", "--workdir", str(workdir), "--suite", "full", *digits]) == 0
        assert main(["sample", "--workdir", str(workdir), "--count", "2"]) == 0
        assert train(tmp_path / "over", *flags, f"--config.tokenizer.workdir={workdir}", devices=2) == 2, "no tokenizer"
        values = config_files.load(name_of("vae_digits")).to_dict()
        values["data"] |= {"validation_split": "test", "allow_overlap": True}
        open_source(configs.resolve(values).data, Part.TRAIN)
        values["data"] |= {"source": "folder", "path": str(tmp_path / "images"), "fields": ("features",)}
        values["data"]["features"] = {"encoder": str(workdir), "checkpoint": "last", "statistics": ""}
        features.open_source(configs.resolve(values).data, Part.TRAIN)
        folder = str(tmp_path / "images")
        for source, others in {
            "tfds": {"name": "mnist"},
            "shapes": {
                "shapes": {"count": 20, "seed": 0, "objects": 3, "counts": True, "holdout": True},
                "fields": ("tokens",),
            },
            "pairs": {"pairs": {"partner": folder, "image_side": "left", "segments": 256}, "fields": ("map",)},
            "domains": {"domains": {"partner": folder}},
        }.items():
            values = config_files.load(name_of("vae_digits")).to_dict()
            values["data"] |= {"source": source, "path": folder, **others}
            try:
                open_source(configs.resolve(values).data, "train")
            except DataError:
                assert source == "tfds", "which is not prepared there"
        values["data"] |= {"source": "pairs", "pairs": {**values["data"]["pairs"], "partner": ""}}
        open_source(configs.resolve(values).data, "train")
        blur = {"kind": "several", "steps": ("deblur", "superres", "jpeg")}
        masks = {"kind": "inpaint", "mask": "half"}, {"kind": "inpaint", "mask": "file"}, {"kind": "outpaint"}
        for observation in (blur, {"kind": "superres"}, {**blur, "kernel_file": "none.npy"}, *masks):
            values = config_files.load(name_of("vae_digits")).to_dict()
            values["data"] |= {"fields": ("source",), "observation": {**values["data"]["observation"], **observation}}
            with contextlib.suppress(ConfigError):  # of files that there are not
                open_source(configs.resolve(values).data, "train")

    for split in ("train", "test"):
        (tmp_path / "images" / split).mkdir(parents=True)
        for i in range(20):
            Image.fromarray(np.full((8, 8), i, np.uint8)).save(tmp_path / "images" / split / f"{i}.png")
    return exercise


def test_every_leaf_of_a_configuration_is_read(tmp_path, monkeypatch):
    assert unread(monkeypatch, use_everything(tmp_path)) == set()
    top = {field for field in configs.Config._fields if field not in {*kinds(), "model", "family"}}
    assert top == {"seed", "resume", "init_from"}, "whose effects the other tests show"


def test_a_leaf_that_nothing_reads_is_found(tmp_path, monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Forgetful(configs.EvaluateOptions):
        forgotten: int = 0

    monkeypatch.setitem(configs.SECTIONS, "evaluate", Forgetful)
    assert unread(monkeypatch, use_everything(tmp_path)) == {"evaluate.forgotten"}
