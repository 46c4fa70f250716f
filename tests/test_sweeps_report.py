"""A sweep's findings, table and page, from run directories whose scores are known because no training made them."""

import html.parser
import json
import os
import re

import numpy as np
import pytest
import scipy.stats

from genimg_jax import files
from genimg_jax.engine import config as configs
from genimg_jax.engine import images, run
from genimg_jax.errors import ConfigError, DataError
from genimg_jax.evaluation import results
from genimg_jax.metrics import significance
from genimg_jax.reports import sweep as report
from genimg_jax.reports import sweep_figures, sweep_plan
from genimg_jax.sweeps import driver, experiment, findings, plan, scores, statistics
from genimg_jax.sweeps.grid import chain, param, product, seeds
from genimg_jax.sweeps.trials import Outcome

METRIC, STEPS = "negative_log_likelihood", 20


def made(workdir, grid, baseline, **changes):
    """A sweep without any run."""
    base = configs.experiment("vae", data={"source": "digits"}, train={"steps": STEPS})
    arguments = {"metric": METRIC, "better": "lower", "also": ("kl",), **changes}
    found = experiment.experiment("Does <beta> help?", base, grid, baseline=baseline, **arguments)
    sweep, _ = plan.plan(found, workdir)
    run.prepare(workdir)
    plan.write(sweep, "experiments/file.py")
    return sweep


def finish(sweep, trial, value, digest="abc", log_prob=None, about_report=(), **manifest):
    """What training and evaluating a trial would have left; `log_prob` f64[N], of single images, or none as once."""
    for part in ("state", "about"):
        (trial.workdir / "checkpoints" / str(STEPS) / part).mkdir(parents=True, exist_ok=True)
    files.write_json(trial.workdir / "config.json", dict(trial.values))
    about = {
        "git": {"commit": "c0ffee", "diff_hash": None},
        "dataset": {"fingerprint": "f1"},
        "cores": 1,
        "devices": ["cpu"],
    }
    files.write_json(trial.workdir / "manifest.json", {**about, "command": trial.name, **manifest})
    metrics = {METRIC: {"value": value, "digest": digest}, "kl": {"value": 2.0, "digest": "def"}}
    files.write_json(trial.workdir / "evaluation" / "best.json", {"metrics": metrics, **dict(about_report)})
    if log_prob is not None:
        np.savez(trial.workdir / "evaluation" / "best-log_prob.npz", log_prob=log_prob, digest=digest)
    lines = [
        {
            "step": step,
            "images": step,
            "split": split,
            "loss": float(value) + 10 / step,
            "images_per_second": 9.0,
            "fixed": 1.0,
        }
        for step in range(5, STEPS + 1, 5)
        for split in ("train", "evaluation")
    ]
    (trial.workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    images.save_png(trial.workdir / "samples" / f"{STEPS}.png", np.full((8, 8, 1), 100, np.uint8))
    plan.record(sweep.workdir, Outcome(trial, "done", 30.0))


def scored(workdir, effects=(0.0, -3.0, 0.0), count=5, **changes):
    """Three configurations whose seeds are shared noise of size 10, and own noise of size 0.1."""
    betas = (1.0, 2.0, 4.0)
    sweep = made(workdir, product(param("model.beta", *betas), seeds(count)), {"model.beta": 1.0}, **changes)
    rng = np.random.default_rng(0)
    shared = 10 * rng.normal(size=count)
    for trial in sweep.trials:
        effect = effects[betas.index(trial.overrides["model.beta"])]
        finish(sweep, trial, 100 + shared[trial.overrides["seed"]] + effect + 0.1 * rng.normal())
    return sweep


def test_pairs_of_equal_seed_show_what_the_spread_over_seeds_hides(tmp_path):
    sweep = scored(tmp_path)
    found = {configuration.name: configuration for configuration in findings.find(sweep).configurations}
    helps, does_not = found["beta=2.0"].comparison, found["beta=4.0"].comparison
    assert found["beta=1.0"].comparison is None
    assert helps.adjusted < 1e-3 and does_not.adjusted > 0.05
    assert helps.interval.low < -3 < helps.interval.high
    assert found["beta=1.0"].summary.interval.high > found["beta=2.0"].summary.mean, "the intervals overlap"
    assert helps == statistics.compare({n: s.values[METRIC] for n, s in found.items()}, "beta=1.0")["beta=2.0"]
    verdict = report.verdict(sweep, findings.find(sweep))
    assert "better: beta=2.0; no difference shown: beta=4.0" in verdict


def test_higher_may_be_better(tmp_path):
    sweep = scored(tmp_path)
    sweep = sweep._replace(measure=sweep.measure._replace(better="higher"))
    assert "worse: beta=2.0; no difference" in report.verdict(sweep, findings.find(sweep))


def test_two_seeds_are_called_too_few_and_claim_nothing(tmp_path):
    sweep = scored(tmp_path, effects=(0.0, -300.0, 0.0), count=2)
    text = report.markdown(sweep, findings.find(sweep))
    assert "too few to compare" in text and "no difference shown: beta=2.0" in text


@pytest.mark.parametrize("count", [1, 3])
def test_over_images_trained_models_are_told_apart_and_no_setting_is_called_better(tmp_path, count):
    """A difference of 0.01 nats, where images vary by 30 and seeds by 10."""
    sweep = made(tmp_path, product(param("model.beta", 1.0, 2.0), seeds(count)), {"model.beta": 1.0})
    rng, images = np.random.default_rng(0), 1000
    shared, each = 30 * rng.normal(size=images), 10 * rng.normal(size=count)
    stored = {}
    for trial in sweep.trials:
        beta, seed = trial.overrides["model.beta"], trial.overrides["seed"]
        stored[beta, seed] = shared + each[seed] + 0.05 * rng.normal(size=images) + (0.01 if beta == 2 else 0)
        finish(sweep, trial, -stored[beta, seed].mean(), log_prob=stored[beta, seed])
    found = findings.find(sweep)
    paired = found.configurations[1].over_images
    differences = np.mean([stored[1.0, seed] - stored[2.0, seed] for seed in range(count)], axis=0)
    reference = scipy.stats.ttest_1samp(differences, 0)
    assert found.configurations[0].over_images is None and paired.pairs == images
    assert paired.p_value == pytest.approx(reference.pvalue) and paired.p_value < 1e-3
    assert paired.interval[1:3] == pytest.approx(reference.confidence_interval())
    text = report.markdown(sweep, found)
    assert f"| {significance.shown(paired)} | {paired.p_value:.2g} |" in text
    assert "| p over images |" in text and "the same 1000 images" in text
    assert count > 1 or "no difference shown: beta=2.0" in report.verdict(sweep, found)
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1


def test_images_of_other_protocols_or_not_stored_are_not_paired(tmp_path):
    sweep = scored(tmp_path, count=3)
    text = report.markdown(sweep, findings.find(sweep))
    assert "over images [" not in text and "Without differences over images" in text and "Remove evaluation/" in text
    for i, trial in enumerate(sweep.trials):
        finish(sweep, trial, 1.5, log_prob=np.full(4, -1.5), digest=f"protocol {i % 2}")
    assert not any(configuration.over_images for configuration in findings.find(sweep, mixed=True).configurations)
    other = scored(tmp_path / "other", count=3, metric="kl", also=())
    for trial in other.trials:
        finish(other, trial, 1.5, log_prob=np.full(4, -1.5))
    assert "over images" not in report.markdown(other, findings.find(other))


def test_what_was_trained_on_and_selected_is_marked(tmp_path):
    sweep = scored(tmp_path, count=2)
    assert "selected among" not in report.markdown(sweep, findings.find(sweep))
    about = {"trained_on": [METRIC], "split": "test"}
    for candidates, trial in enumerate(sweep.trials[2:], 11):
        selection = {"split": "validation" if candidates < 14 else "test", "metric": "loss", "candidates": candidates}
        finish(sweep, trial, 1.5, about_report=about | {"selection": selection})
    text = report.markdown(sweep, findings.find(sweep))
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    assert rows[0][-2:] == ["kl", "selected among"]
    assert [row[2].endswith(" †") for row in rows[2:]] == [False, True, True] and "2 †" not in text
    assert rows[3][-1] == "11, 12" and rows[4][-1] == "13, 14 ‡"
    assert "\n† trained on this measure" in text and "\n‡ the reported split may have had a part" in text


def test_later_evaluations_count(tmp_path):
    sweep = scored(tmp_path, count=2)
    about = {"selection": {"evaluated": 2}, "protocol": {"data": "digits"}}
    finish(sweep, trial := sweep.trials[0], 1.5, about_report=about)
    assert scores.report(trial, sweep.measure)["selection"]["evaluated"] == 2
    files.write_json(trial.workdir / results.EVALUATED, {"digits": ["a", "b", "c"]})
    assert scores.report(trial, sweep.measure)["selection"]["evaluated"] == 3


def test_the_markdown_table_has_a_row_a_configuration(tmp_path):
    sweep = scored(tmp_path)
    lines = [line for line in report.markdown(sweep, findings.find(sweep)).splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["beta=1.0 (baseline)", "beta=2.0", "beta=4.0"]
    assert "`abc`" in report.markdown(sweep, findings.find(sweep)), "the protocol"


def test_cells_without_a_score_are_counted_and_their_pairs_left_out(tmp_path):
    sweep = scored(tmp_path)
    one, two = sweep.trials[5], sweep.trials[6]
    finish(sweep, one, "nan")
    (two.workdir / "checkpoints" / str(STEPS) / "state").rmdir()
    found = {configuration.name: configuration for configuration in findings.find(sweep).configurations}
    assert found["beta=2.0"].unfinished == 2 and found["beta=2.0"].comparison.pairs == 3
    text = report.markdown(sweep, findings.find(sweep))
    assert "3 of 5" in text and "2 trials have no value" in text


def test_nothing_done_yet_is_a_report_too(tmp_path):
    sweep = made(tmp_path, seeds(2), {})
    assert "Nothing can be compared" in report.write(sweep)
    assert "waiting" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (
            {"dataset": {"fingerprint": "f2"}},
            r"do not share their data: dataset.fingerprint is f1 in 14 trials.*f2 in 1",
        ),
        ({"git": {"commit": "decaf", "diff_hash": None}}, "do not share their code: git.commit is c0ffee"),
        ({"git": {"commit": "c0ffee", "diff_hash": "d1"}}, "do not share their code: git.diff_hash is None"),
        ({"resumed": [{"git": {"commit": "decaf"}}]}, "code: git.commit is .*c0ffee, then decaf in 1 trial"),
    ],
)
def test_other_data_or_code_is_not_compared_unless_told(tmp_path, manifest, message):
    sweep = scored(tmp_path)
    finish(sweep, sweep.trials[3], 100.0, **manifest)
    with pytest.raises(DataError, match=message):
        report.write(sweep)
    text = report.write(sweep, mixed=True)
    assert "Compared all the same" in text


def test_two_protocols_are_not_compared_unless_told(tmp_path):
    sweep = scored(tmp_path)
    finish(sweep, sweep.trials[0], 100.0, digest="other")
    with pytest.raises(DataError, match=f"{METRIC} was measured under 2 protocols"):
        findings.find(sweep)
    assert findings.find(sweep, mixed=True).mixture == (f"the protocol of {METRIC}",)


def test_other_differences_are_shown_and_what_passes_is_not(tmp_path):
    sweep = scored(tmp_path)
    finish(sweep, sweep.trials[0], 100.0, cores=2, started="later")
    found = findings.find(sweep)
    assert found.differences == {"cores": {"2": [sweep.trials[0].name], "1": [c.name for c in sweep.trials[1:]]}}


def test_a_metric_that_is_not_measured_is_named_with_the_nearest(tmp_path):
    sweep = scored(tmp_path, metric="negative_log_likelyhood")
    with pytest.raises(ConfigError, match="did you mean 'negative_log_likelihood'"):
        findings.find(sweep)
    again, stopped = sweep.trials[0], []

    def launcher(chosen):
        try:
            yield Outcome(again, "done", 1.0)
            yield pytest.fail("nothing can come of what follows")
        finally:
            stopped.append(True)

    with pytest.raises(ConfigError, match="did you mean 'negative_log_likelihood'"):
        driver.run_trials(sweep, sweep.trials, launcher)
    assert stopped


def test_what_was_swept_is_what_settings_differ_in(tmp_path):
    one = made(
        tmp_path / "1", product(param("model.beta", 1.0, 2.0), seeds(2, "data.shapes.seed")), {"model.beta": 1.0}
    )
    assert findings.find(one).swept == ("model.beta",), "a key that goes with the seed is no option"
    two = made(tmp_path / "2", chain(param("model.beta", 1.0), param("model.width", 8)), {"model.beta": 1.0})
    found = findings.find(two)
    assert found.swept == ("model.width",) and two.baseline == "beta=1.0"
    assert [configuration.options["model.width"] for configuration in found.configurations][1] == 8


def test_a_band_is_the_range_and_the_mean_of_what_was_logged():
    steps, low, mean, high = sweep_figures.band([[(1, 2.0), (2, 5.0)], [(1, 4.0), (2, float("nan"))], []])
    np.testing.assert_allclose([steps, low, mean, high], [[1, 2], [2, 5], [3, 5], [4, 5]])


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br", "path", "use"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag in self.open:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_is_whole_fetches_nothing_and_escapes(tmp_path):
    sweep = scored(tmp_path)
    report.write(sweep)
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert not page.open, "every element is closed"
    links = [v for _, attributes in page.tags for k, v in attributes.items() if k in ("src", "href", "xlink:href")]
    assert links and all(link.startswith(("data:image/png;base64,", "#")) for link in links)
    assert not re.search(r"@import|url\((?!#)|<script", text)
    assert "Does <beta> help?" in page.words and "<beta>" not in text
    names = {trial.name for trial in sweep.trials}
    assert names <= set(page.words)
    pictures = [a["alt"] for tag, a in page.tags if tag == "img"]
    assert pictures == [f"beta={b}, seed {s}" for s in (0, 1) for b in ("1.0", "2.0", "4.0")], "at equal seeds"
    assert "Constant in every run: fixed" in text


def test_two_options_make_a_heat_map_and_the_best_cell_is_the_darkest(tmp_path):
    grid = product(param("model.beta", 1.0, 4.0), param("model.latent", 2, 4, 8), seeds(3))
    sweep = made(tmp_path, grid, {"model.beta": 1.0, "model.latent": 2})
    for i, trial in enumerate(sweep.trials):
        finish(sweep, trial, 100.0 - i // 3)
    page = Page(sweep_figures.swept(sweep, findings.find(sweep)))
    shades = {a["title"]: float(re.search(r"(\d+)%", a["style"])[1]) for tag, a in page.tags if tag == "td"}
    assert len(shades) == 6
    assert max(shades, key=shades.get) == "beta=4.0,latent=8" and min(shades.values()) == 0


def test_states_tell_apart_what_files_tell(tmp_path):
    sweep = made(tmp_path, seeds(5), {})
    done, failed, stopped, running, waiting = sweep.trials
    finish(sweep, done, 100.0)
    plan.record(tmp_path, Outcome(failed, "failed", 3.0, "it broke\nthere"))
    for trial in (stopped, running):
        trial.workdir.mkdir(parents=True)
        line = {"step": 10, "images": 10, "split": "train", "loss": 1.0}
        (trial.workdir / "metrics.jsonl").write_text(json.dumps(line) + '\n{"step": 1')
    with run.lock(running.workdir):
        states = {state.trial.name: state for state in driver.states(sweep)}
    assert [s.status for s in states.values()] == ["done", "failed", "stopped", "running", "waiting"]
    assert states[stopped.name].step == 10 and states[stopped.name].estimate == pytest.approx(15.0), "half of 30 s"
    assert states[waiting.name].estimate == pytest.approx(30.0)
    text = sweep_plan.table(list(states.values()))
    assert "it broke" in text and "1 done, 1 failed, 1 stopped, 1 running, 1 waiting" in text
    assert driver.states(sweep)[3].status == "running", "until its process is gone"
    (running.workdir / "lock").write_text(f"process 999999999 on {os.uname().nodename} since {run.now()}\n")
    assert driver.states(sweep)[3].status == "stopped"
