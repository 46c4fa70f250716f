"""Tables of several reports: what stands side by side, what is compared in pairs, and what is marked."""

import numpy as np
import pytest
import scipy.stats

from genimg_jax import data
from genimg_jax.data.splits import part
from genimg_jax.errors import ConfigError, DataError
from genimg_jax.evaluation import log_probs, marks, results
from genimg_jax.metrics.specs import LIKELIHOODS, Measurement, MetricSpec


def rng(seed):
    return np.random.default_rng(seed)


def report_of(value: float, trained_on: tuple[str, ...] = (), **changed) -> dict:
    """One with a likelihood and a distance."""
    kind = changed.pop("kind", "exact")
    fields = {"samples": 10, "reference": "digits", "split": "test", "reference_samples": 5, "seed": 0} | changed
    one = MetricSpec("kernel", "classifier", "1a", None, **fields, protocol={})
    two = MetricSpec("negative_log_likelihood", None, None, None, **fields, protocol={"log-likelihood": kind})
    measured = {"kernel/classifier": Measurement(value, one), "negative_log_likelihood": Measurement(value, two)}
    metrics = {name: results.metric(m) for name, m in measured.items()}
    return {"metrics": metrics, "trained_on": list(trained_on), "split": "test"}


def test_a_table_keeps_kinds_of_likelihood_apart_and_refuses_two_protocols():
    bound = "a bound: the true value is at most this"
    text = results.table({"made": report_of(1.5), "vae": report_of(2.5, kind=bound)})
    header, _, made, vae, protocol, *notes = text.splitlines()
    kinds = "| negative_log_likelihood (exact) ↓ | negative_log_likelihood (a bound) ↓ |"
    assert header == f"|  | kernel/classifier ↓ {kinds}"
    assert (made, vae) == ("| made | 1.5 | 1.5 |  |", "| vae | 2.5 |  | 2.5 |")
    assert protocol.count("`") == 6 and not notes
    with pytest.raises(DataError, match=r"'kernel/classifier' cannot hold both 'made' and 'vae'.* \(10 and 20\)"):
        results.table({"made": report_of(1.5), "vae": report_of(2.5, samples=20)})


def test_a_table_has_every_column_that_was_named():
    reports = {"made": report_of(1.5), "vae": report_of(2.5)}
    del reports["vae"]["metrics"]["kernel/classifier"]
    rows = results.table(reports, ["negative_log_likelihood", "kernel/classifier"]).splitlines()
    assert rows[0] == "|  | negative_log_likelihood (exact) ↓ | kernel/classifier ↓ |"
    assert rows[3] == "| vae | 2.5 |  |"
    message = "kernel/classifer has not been measured in made, vae; did you mean 'kernel/classifier'?"
    with pytest.raises(ConfigError, match=message):
        results.table(reports, ["negative_log_likelihood", "kernel/classifer"])
    with pytest.raises(ConfigError, match=r"none of .* has been measured in made; name columns that have been"):
        results.table({"made": {"metrics": {"loss": None}}})


def test_a_table_pairs_the_likelihoods_of_one_kind_image_by_image():
    shared, own = 30 * rng(0).normal(size=5), rng(1).normal(size=(3, 5))
    kinds = {"made": "exact", "vae": "a bound: the true value is at most this", "rnn": "exact", "flow": "an estimate"}
    reports = {row: report_of(1.5, kind=kind) for row, kind in kinds.items()}
    values = {"made": shared, "rnn": shared + own[0], "vae": shared + own[1], "flow": shared + own[2]}
    text = results.table(reports, ["kernel/classifier", "negative_log_likelihood"], values)
    header, _, made, vae, made_too, *_ = [line.split(" | ")[2:] for line in text.splitlines()]
    assert header[1:3] == ["negative_log_likelihood (exact) less made [95 %] ↓", "p"]
    assert "less vae" not in text and "less flow" not in text, "nothing of their kind to be compared with"
    reference = scipy.stats.ttest_rel(-values["rnn"], -values["made"])
    ends = reference.confidence_interval()
    assert made_too[1] == f"{-own[0].mean():+.4g} [{ends.low:+.4g}, {ends.high:+.4g}]"
    assert made_too[2] == f"{reference.pvalue:.2g}" and made[1] == vae[1] == ""
    assert "over the same 5 images" in text and "Of bounds" not in text
    # A model is itself; Holm's correction counts the rows; a bound is called one.
    same = results.table({"a": reports["vae"], "b": reports["vae"]}, None, {"a": shared, "b": shared})
    assert "| +0 [+0, +0] | 1 |" in same and "(a bound) less a" in same and "Of bounds, it compares the bounds." in same
    three = dict.fromkeys(("a", "b", "c"), reports["made"])
    text = results.table(three, None, {"a": shared, "b": values["rnn"], "c": values["rnn"]})
    assert text.count(f"| {min(2 * reference.pvalue, 1):.2g} |") == 2
    # Not finite: no test. Not stored: said, with what to do.
    text = results.table(three, None, {"a": shared, "b": np.where(own[0] > 0, -np.inf, shared), "c": None})
    assert "| +inf | nan |" in text and "No paired difference of c: " in text and "--suite full stores them" in text
    assert "less a" not in results.table(three, None, {"a": shared})


def test_what_a_model_was_trained_on_is_marked_in_tables_and_texts():
    name = "negative_log_likelihood"
    reports = {"made": report_of(1.5, (name,)), "flow": report_of(1.25), "old": report_of(1.0)}
    del reports["old"]["trained_on"]
    text = results.table(reports, [name])
    assert text.splitlines()[2:5] == ["| made | 1.5 † |", "| flow | 1.25 |", "| old | 1 |"]
    assert "\n† trained on this measure" in text and "not marked: old." in text
    assert "†" not in results.table({"flow": reports["flow"]}, [name])
    assert f"{name} † " in results.text(reports["made"]) and "† trained on" in results.text(reports["made"])
    assert "†" not in results.text(reports["flow"]) + results.text(reports["old"])


def test_an_objective_marks_metrics_by_name_as_a_likelihood_and_in_its_features():
    def one(name, features=None):
        return Measurement(0.0, MetricSpec(name, features, None, None, 0, None, None, None, None))

    found = {name: one(name) for name in ("loss", "psnr", *LIKELIHOODS)}
    found |= {"kernel/inception": one("kernel", "inception"), "kernel/pixels": one("kernel", "pixels")}
    assert marks.trained_on((), found) == []
    assert marks.trained_on(("loss", "psnr"), found) == ["loss", "psnr"]
    assert marks.trained_on(("log_prob",), found) == list(LIKELIHOODS)
    assert marks.trained_on(("inception",), found) == ["kernel/inception"]


def test_tables_say_among_how_many_a_figure_was_selected_and_on_what():
    chosen = {"split": "validation", "metric": "loss", "candidates": 12}
    selections = {
        "validated": chosen,
        "leaked": chosen | {"split": "test"},
        "shared": chosen,
        "tried": {"evaluated": 3},
        "last": {"evaluated": 1},
        "old": None,
    }
    reports = {row: report_of(1.5) | ({"selection": each} if each else {}) for row, each in selections.items()}
    options = data.Options(validation_split="test[:5]", allow_overlap=True)
    reports["shared"]["split"] = part(options, data.Part.EVALUATE, {"train": range(20), "test": range(20, 30)})[1]
    text = results.table(reports)
    assert text.splitlines()[0].endswith("| selected among |")
    last = {line.split(" | ")[0][2:]: line.removesuffix(" |").split(" | ")[-1] for line in text.splitlines()[2:8]}
    assert last.pop("shared") == "12 ‡"
    assert last == {"validated": "12", "leaked": "12 ‡", "tried": "1 and 3 on test ‡", "last": "1", "old": ""}
    assert "\n‡ the reported split may have had a part" in text
    assert "selected" not in results.table({"old": reports["old"]})
    assert "\nselected among: 12, by loss on validation" in results.text(reports["validated"])
    assert "\nselected among: 12 ‡, by loss on test\n‡ the reported" in results.text(reports["leaked"])
    assert "selected" not in results.text(reports["old"])


def stored(folder, values, value=None, digest="abc"):
    """A report's likelihood, and what lies beside the report."""
    np.savez(folder / "best-log_prob.npz", log_prob=values, data="f1", digest="abc")
    return {"negative_log_likelihood": {"value": -np.mean(values) if value is None else value, "digest": digest}}


def test_log_likelihoods_are_read_only_beside_their_own_report(tmp_path):
    values, file = rng(2).normal(size=7), tmp_path / "best.json"
    metrics = stored(tmp_path, values)
    np.testing.assert_array_equal(log_probs.read(file, metrics), values)
    assert log_probs.read(file, {}) is None and log_probs.read(tmp_path / "last.json", metrics) is None
    for stale in ({"value": 0.5}, {"digest": "other"}):
        with pytest.raises(DataError, match=r"best-log_prob\.npz does not belong to best.json beside it; evaluate"):
            log_probs.read(file, stored(tmp_path, values, **stale))
    (tmp_path / "best-log_prob.npz").write_bytes((tmp_path / "best-log_prob.npz").read_bytes()[:-40])
    with pytest.raises(DataError, match=r"best-log_prob\.npz is damaged"):
        log_probs.read(file, metrics)
