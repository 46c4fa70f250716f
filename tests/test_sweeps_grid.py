"""Grids, experiments and plans: what is put together, what is refused before anything starts, and what may change."""

import itertools
import json
import pathlib

import pytest

from genimg_jax.engine import config as configs
from genimg_jax.engine import config_files
from genimg_jax.engine.config_differences import differences
from genimg_jax.errors import ConfigError
from genimg_jax.sweeps import experiment as experiments
from genimg_jax.sweeps import plan as plans
from genimg_jax.sweeps.grid import chain, configuration_names, names, overlay, param, product, seeds, zipped
from genimg_jax.sweeps.trials import Outcome


def base(**train):
    return configs.experiment("vae", data={"source": "digits", "binarize": "dynamic"}, train={"steps": 10, **train})


def make(grid, baseline=None, **changes):
    arguments = {"question": "?", "base": base(), "metric": "loss", "better": "lower", "baseline": baseline or {}}
    return experiments.experiment(grid=grid, **{**arguments, **changes})


def test_combinators_make_the_cells_they_say():
    a, b = param("model.beta", 1.0, 2.0), param("train.batch_size", 8, 16)
    assert [p.overrides for p in product(a, b)] == [
        {"model.beta": x, "train.batch_size": y} for x, y in itertools.product((1.0, 2.0), (8, 16))
    ]
    assert [p.overrides for p in zipped(a, b)] == [
        {"model.beta": 1.0, "train.batch_size": 8},
        {"model.beta": 2.0, "train.batch_size": 16},
    ]
    assert chain(a, b) == a + b
    assert [p.replicate for p in seeds(2, "model.latent")] == [{"seed": i, "model.latent": i} for i in range(2)]
    assert all(p.configuration == {} for p in param("seed", 3, 4)), (
        "a seed is never a configuration, however it is swept"
    )


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (lambda: param("model.beta"), "has no values"),
        (lambda: seeds(0), "empty grid"),
        (lambda: zipped(param("a", 1, 2), seeds(3)), "2, 3 trials"),
        (lambda: product(param("a", 1), param("a", 2)), "config.a is set by two grids"),
        (lambda: make(()), "the grid is empty"),
        (lambda: make(param("model.betta", 1.0)), "did you mean 'model.beta'"),
        (lambda: make(param("train.learning_rate", 1.0)), "did you mean 'optimizer.learning_rate'"),
        (lambda: make(param("model.beta.x", 1.0)), "config.model.beta.x is not in the configuration"),
        (lambda: make(param("model.beta", "1.0")), "config.model.beta is '1.0', a str; it must be a float"),
        (lambda: make(param("train.batch_size", 0)), "config.train.batch_size is 0; it must be at least 1"),
        (lambda: make(seeds(2), settings={"train.stepps": 3}), "did you mean 'train.steps'"),
        (lambda: make(param("model.beta", 1.0, 1.0)), "are one run: nothing differs"),
        (lambda: make(param("train.keep", 1, 2)), "they differ in train.keep alone"),
        (lambda: make(param("model.beta", 1.0, 2.0)), "is 2 configurations"),
        (lambda: make(param("model.beta", 1.0), {"model.beta": 3.0}), "is none of the configurations"),
        (lambda: make(param("model.beta", 1.0), {"model.bet": 1.0}), "did you mean 'model.beta'"),
        (lambda: make(seeds(2), better="lowest"), "did you mean 'lower'"),
        (lambda: make(seeds(2), better="higher"), "better is 'higher', but of loss lower is better; leave better out"),
        (lambda: make(seeds(2), metric="kl", better=""), "better is ''. It must be lower or higher"),
        (
            lambda: make(param("optimizer.arguments.b3", 0.5)),
            r"optimizer.arguments.b3 is no argument .* mean 'b1'|'b2'",
        ),
        (lambda: make(param("optimizer.arguments.b1", "x")), "optax.adam cannot work with {'b1': 'x'}"),
        (lambda: make(param("optimizer.arguments.b1.x", 0.5)), "arguments.b1.x is not in the configuration"),
        (lambda: make(param("optimizer.argument.b1", 0.5)), "optimizer.argument.b1 is not in the configuration"),
        (lambda: make(seeds(2), suite="all"), "must be likelihood or full"),
    ],
)
def test_what_cannot_be_meant_is_refused(grid, message):
    with pytest.raises(ConfigError, match=message):
        grid()


def test_an_overlay_changes_its_keys_and_nothing_else():
    values = base().to_dict()
    changed = overlay(values, {"model.beta": 4.0, "optimizer.arguments": {"b1": 0.5}})
    found = differences(values, changed)
    assert {d.key: d.given for d in found} == {"model.beta": 4.0, "optimizer.arguments.b1": 0.5}
    assert values == base().to_dict(), "the base itself stays"


def test_an_argument_of_an_optimiser_is_swept_like_any_option():
    grid = product(param("optimizer.arguments.b1", 0.5, 0.9), seeds(2))
    found = make(grid, {"optimizer.arguments.b1": 0.9}, settings={"optimizer.arguments": {"b2": 0.99}})
    assert found.baseline == "b1=0.9" and [trial.name for trial in found.trials][:2] == [
        "b1=0.5,seed=0",
        "b1=0.5,seed=1",
    ]
    assert [trial.values["optimizer"]["arguments"]["b1"] for trial in found.trials] == [0.5, 0.5, 0.9, 0.9]
    assert all(trial.values["optimizer"]["arguments"]["b2"] == 0.99 for trial in found.trials)


def test_what_is_better_is_known_of_a_metric():
    assert make(seeds(2), better="").measure.better == "lower"
    assert make(seeds(2), metric="psnr", better="").measure.better == "higher"
    assert make(seeds(2), metric="kl", better="higher").measure.better == "higher"


def test_names_are_as_short_as_can_be_told_apart():
    grid = product(
        param("optimizer.generator.learning_rate", 1e-3),
        param("optimizer.discriminator.learning_rate", 1e-4),
        param("model.loss", "hinge"),
        seeds(1),
    )
    assert names(grid) == ["generator.learning_rate=0.001,discriminator.learning_rate=0.0001,loss=hinge,seed=0"]
    assert configuration_names(grid) == ["generator.learning_rate=0.001,discriminator.learning_rate=0.0001,loss=hinge"]
    assert configuration_names(seeds(2)) == ["base", "base"]
    together = zipped(param("train.batch_size", 8, 16), param("train.steps", 20, 10))
    assert names(zipped(together, seeds(2, "model.latent"))) == ["batch_size=8,seed=0", "batch_size=16,seed=1"]
    apart = chain(param("train.batch_size", 8), param("train.steps", 20, 10))
    assert names(apart) == ["batch_size=8", "steps=20", "steps=10"]
    assert names(chain(param("train.batch_size", 8, 16), param("train.steps", 20)))[-1] == "steps=20"


def test_cells_are_complete_and_their_digest_is_the_runs():
    found = make(product(param("model.beta", 1.0, 4.0), seeds(2)), {"model.beta": 1.0}, settings={"train.steps": 7})
    assert found.baseline == "beta=1.0"
    assert [trial.name for trial in found.trials] == [
        "beta=1.0,seed=0",
        "beta=1.0,seed=1",
        "beta=4.0,seed=0",
        "beta=4.0,seed=1",
    ]
    last = found.trials[-1]
    config = configs.resolve(last.values)
    assert (config.model.beta, config.seed, config.train.steps) == (4.0, 1, 7)
    alone = base(steps=7)
    alone.model.beta, alone.seed = 4.0, 1
    assert last.digest == configs.digest(alone.to_dict()) == configs.digest(json.loads(json.dumps(last.values)))


FILE = """
from genimg_jax.engine.config import experiment as configuration
from genimg_jax.sweeps.experiment import experiment
from genimg_jax.sweeps.grid import param, product, seeds

def get_experiment(variant="full"):
    return experiment(
        question="?",
        base=configuration("vae", data={"source": "digits"}, train={"steps": 10}),
        grid=product(
            param("model.beta", 1.0, 4.0),
            seeds(2 if variant == "tiny" else 5),
        ),
        metric="loss",
        better="lower",
        baseline={"model.beta": 1.0},
    )
"""


def test_a_file_is_an_experiment_and_its_mistakes_have_lines(tmp_path):
    file = tmp_path / "question.py"
    file.write_text(FILE)
    assert len(experiments.load(str(file)).trials) == 10
    assert len(experiments.load(f"{file}:tiny").trials) == 4
    line = FILE.splitlines().index('            param("model.beta", 1.0, 4.0),') + 1
    file.write_text(FILE.replace('param("model.beta"', 'param("model.betta"'))
    with pytest.raises(ConfigError, match=rf"question.py:{line}: config.model.betta .* did you mean 'model.beta'"):
        experiments.load(str(file))
    file.write_text("def get_experiment():\n    return 1\n")
    with pytest.raises(ConfigError, match="get_experiment returned int"):
        experiments.load(str(file))
    with pytest.raises(ConfigError, match=r"beside it: .*question.py"):
        experiments.load(str(tmp_path / "other.py"))


def test_a_file_names_others_from_here_or_from_its_own_folders(tmp_path, monkeypatch):
    (tmp_path / "project" / "configs").mkdir(parents=True)
    (tmp_path / "project" / "experiments").mkdir()
    imports = "from genimg_jax.engine.config import experiment\nfrom genimg_jax.engine.config_files import load"
    head = f"{imports}\n\n\ndef get_config(variant='full'):\n    return "
    for place, steps in (("project/configs", 7), ("configs", 8)):
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / "mine.py").write_text(f'{head}experiment("vae", train={{"steps": {steps}}})\n')
    asking = tmp_path / "project" / "experiments" / "asks.py"
    asking.write_text(f'{head}load("configs/mine.py:tiny")\n')
    for here, steps in ((tmp_path / "project", 7), (tmp_path / "project" / "configs", 7), (tmp_path, 8)):
        monkeypatch.chdir(here)
        assert config_files.load(str(asking)).train.steps == steps
    monkeypatch.chdir(tmp_path / "project" / "configs")
    with pytest.raises(ConfigError, match=r"no config file configs/mine\.py; config files beside it: none there"):
        config_files.load("configs/mine.py")


@pytest.mark.parametrize("name", ["beta_vae", "gan_losses", "ar_ordering", "batch_vs_lr"])
@pytest.mark.parametrize("variant", ["full", "tiny"])
def test_shipped_experiments_are_ones_with_enough_seeds(name, variant):
    file = pathlib.Path(__file__).parents[1] / "experiments" / f"{name}.py"
    found = experiments.load(f"{file}:{variant}")
    seeds = {}
    for trial in found.trials:
        seeds.setdefault(trial.configuration, set()).add(trial.values["seed"])
    assert len(seeds) > 1 and len({frozenset(s) for s in seeds.values()}) == 1, "every seed in every configuration"
    assert variant == "tiny" or all(len(s) >= 5 for s in seeds.values())


def planned(workdir, grid, **changes):
    sweep, missing = plans.plan(make(grid, **changes), workdir)
    plans.write(sweep, "file.py")
    return sweep, missing


def test_a_plan_is_read_back_as_it_was_made(tmp_path):
    made, _ = planned(tmp_path, product(param("model.beta", 1.0, 4.0), seeds(2)), baseline={"model.beta": 1.0})
    read = plans.read(tmp_path)
    assert read == made
    assert {name: len(group) for name, group in read.by_configuration().items()} == {"beta=1.0": 2, "beta=4.0": 2}
    assert [trial.workdir.parent for trial in read.trials] == [tmp_path / "cells"] * 4
    with pytest.raises(ConfigError, match="holds no sweep"):
        plans.read(tmp_path / "cells")


def test_cells_may_be_added_and_keep_their_directories_under_any_name(tmp_path):
    first, _ = planned(tmp_path, seeds(2))
    grid = product(param("model.beta", 1.0, 4.0), seeds(3))
    default = configs.resolve(base()).model.beta
    assert default == 1.0
    second, missing = planned(tmp_path, grid, baseline={"model.beta": 1.0})
    assert not missing
    places = {trial.digest: trial.workdir for trial in second.trials}
    assert all(places[trial.digest] == trial.workdir for trial in first.trials)
    assert len(set(places.values())) == 6


def test_cells_that_are_gone_from_the_file_are_left_and_come_back(tmp_path):
    whole, _ = planned(tmp_path, seeds(3))
    part, missing = planned(tmp_path, seeds(2))
    assert missing == ["seed=2"] and len(part.trials) == len(plans.read(tmp_path).trials) == 2
    again, missing = planned(tmp_path, seeds(3))
    assert again == whole and not missing


def test_planned_cells_are_not_changed(tmp_path):
    planned(tmp_path, seeds(2))
    before = (tmp_path / plans.PLAN).read_bytes()
    with pytest.raises(
        ConfigError, match=r"another experiment: 2 of its trials.*\n.*model.beta +stored 1.0, given 2.0"
    ):
        plans.plan(make(seeds(2), settings={"model.beta": 2.0}), tmp_path)
    with pytest.raises(ConfigError, match=r"lacks seed=0 and has seed=2"):
        plans.plan(make(param("seed", 1, 2)), tmp_path)
    assert (tmp_path / plans.PLAN).read_bytes() == before
    with pytest.raises(ConfigError, match=r"train.steps +stored 10, given 20"):
        plans.plan(make(seeds(2), settings={"train.steps": 20}), tmp_path)
    safe, _ = plans.plan(make(seeds(2), settings={"train.log_every": 3}), tmp_path)
    assert safe.trials[0].values["train"]["log_every"] == 3, "what changes no result may change"


def test_a_plan_with_relative_paths_is_the_same_plan_from_elsewhere(tmp_path, monkeypatch):
    """As an earlier version wrote it: paths as given, digests of those, and options that it did not have yet."""
    grid = param("tokenizer.workdir", "runs/one", "runs/two")
    monkeypatch.chdir(tmp_path)
    sweep, _ = planned(tmp_path / "sweep", grid, baseline={"tokenizer.workdir": "runs/one"})
    assert [trial.values["tokenizer"]["workdir"] for trial in sweep.trials] == [
        str(tmp_path / "runs" / name) for name in ("one", "two")
    ]
    file = tmp_path / "sweep" / plans.PLAN
    stored = json.loads(file.read_text())
    for trial, name in zip(stored["cells"], ("one", "two"), strict=True):
        trial["values"]["tokenizer"]["workdir"], trial["digest"] = f"runs/{name}", name
        del trial["values"]["train"]["keep"]
    file.write_text(json.dumps(stored))
    again, missing = plans.plan(make(grid, {"tokenizer.workdir": "runs/one"}), tmp_path / "sweep")
    assert again == sweep and not missing
    (tmp_path / "elsewhere").mkdir()
    planned(tmp_path / "sweep", grid, baseline={"tokenizer.workdir": "runs/one"})
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert plans.read(tmp_path / "sweep") == sweep


def test_names_that_no_directory_can_have_get_ones_of_their_own(tmp_path):
    long = "x" * 300
    sweep, _ = planned(tmp_path, param("init_from", "a/b", "a:b", "../../c", long), baseline={"init_from": long})
    places = [trial.workdir for trial in sweep.trials]
    assert len(set(places)) == 4 and all(place.parent == tmp_path / "cells" for place in places)
    for place in places:
        place.mkdir(parents=True)


def test_outcomes_survive_a_line_that_was_cut_short(tmp_path):
    sweep, _ = planned(tmp_path, seeds(2))
    one, two = sweep.trials
    plans.record(tmp_path, Outcome(one, "failed", 1.5, "why\nand where"))
    with (tmp_path / plans.OUTCOMES).open("a") as file:
        file.write('{"digest": "ab')
    plans.record(tmp_path, Outcome(two, "done", 2.5))
    plans.record(tmp_path, Outcome(one, "done", 3.0))
    found = plans.outcomes(tmp_path)
    assert [line["status"] for line in found[one.digest]] == ["failed", "done"]
    assert found[one.digest][0]["message"] == "why\nand where"
    assert [line["seconds"] for line in found[two.digest]] == [2.5]
