"""Raters whose taste is known are read right; the page asks what was planned, in a real browser."""

import base64
import io
import json
import re
import time

import needs
import numpy as np
import pytest
from browser import Browser, program
from PIL import Image

from genimg_jax.__main__ import main
from genimg_jax.errors import ConfigError, DataError
from genimg_jax.evaluation import human
from genimg_jax.evaluation.human_scores import scores, text
from genimg_jax.reports.human_page import page

TASTE = {"data": 0.9, "gan": 0.1, "vae": -1.0}
RATINGS = {"data": 4.0, "gan": 3.1, "vae": 2.0}


def images(count=30, seed=0):  # -> u8[N, 6, 6, 1]
    return np.random.default_rng(seed).integers(256, size=(count, 6, 6, 1), dtype=np.uint8)


def study(mode="choice", trials=36, checks=8, **settings):
    return human.study({name: images(seed=100 + i) for i, name in enumerate(TASTE)}, mode, trials, checks, **settings)


def saved(asked, rater, answers):
    """The file of a rater, as the page writes it."""
    given = [
        {"trial": i, "shown": shown, "answer": int(answer), "milliseconds": 800}
        for i, (shown, answer) in enumerate(zip(asked.trials, answers, strict=True))
    ]
    about = {"format": human.FORMAT, "page": asked.digest, "mode": asked.mode, "question": asked.question}
    about |= {"sets": asked.sets, "misses_allowed": asked.misses_allowed, "trials": len(given), "rater": rater}
    return {**about, "answers": given}


def choices(rng, asked, spread=0.0):
    """One rater's: attentive, of a taste that varies around the common one."""
    taste = {name: score + spread * rng.normal() for name, score in TASTE.items()} | {human.NOISE: -99.0}
    return [rng.random() > 1 / (1 + np.exp(taste[right] - taste[left])) for (left, _), (right, _) in asked.trials]


def ratings(rng, asked):
    """One rater's: generous or not, and attentive."""
    means = {name: mean + rng.normal(scale=0.3) for name, mean in RATINGS.items()} | {human.NOISE: -9.0}
    return [np.clip(np.round(rng.normal(means[name], 0.7)), 1, human.SCALE) for ((name, _),) in asked.trials]


def read(*records):
    return human.read({f"{record['rater']}.json": json.dumps(record) for record in records})


def test_every_pair_is_asked_alike_on_either_side():
    asked = study(trials=32, checks=5)
    sides = [tuple(name for name, _ in trial) for trial in asked.trials]
    counts = {pair: sides.count(pair) for pair in set(sides)}
    checks = {pair: counts.pop(pair) for pair in list(counts) if human.NOISE in pair}
    assert len(counts) == 6
    assert set(counts.values()) == {6}
    assert checks == {("data", human.NOISE): 3, (human.NOISE, "data"): 2}
    places = [i for i, pair in enumerate(sides) if human.NOISE in pair]
    for i, place in enumerate(places):  # one to each fifth of the 36, after i others
        assert 36 * i // 5 <= place - i <= 36 * (i + 1) // 5
    shown = [image for trial in asked.trials for name, image in trial if name == "gan"]
    assert len(set(shown)) == min(len(shown), 30)


def test_the_seed_decides_order_and_digest():
    assert study(seed=1) == study(seed=1)
    first, second = study(seed=1), study(seed=2)
    assert first.trials != second.trials
    assert first.digest != second.digest
    assert (
        human.study({"a": images(), "b": images(seed=5)}).digest != human.study({"a": images(), "b": images()}).digest
    )


def test_the_known_ranking_is_found():
    rng, asked = np.random.default_rng(0), study()
    found = scores(read(*(saved(asked, f"rater {i}", choices(rng, asked)) for i in range(25))))
    assert list(found["scores"]) == ["data", "gan", "vae"]
    for name, true in TASTE.items():
        low, high = found["scores"][name]["interval"]
        assert low < true < high
        assert high - low < 1
    low, high = found["differences"]["data - vae"]["interval"]
    assert low < 1.9 < high
    assert 0.4 < found["left_chosen"] < 0.6
    assert found["answers"] == 25 * 36
    stated = "the spread between raters (Student's, 24 degrees of freedom), never narrower than those of independent"
    assert stated in text(found)
    assert text(found).splitlines()[3].startswith("data ")


def test_intervals_cover_what_raters_in_general_prefer():
    """15 raters whose tastes differ; the target is what 3,000 of them prefer."""
    rng, asked = np.random.default_rng(1), study(checks=0)

    def of(raters):
        return scores(read(*(saved(asked, str(i), choices(rng, asked, spread=0.7)) for i in range(raters))))["scores"]

    target = of(3000)
    hits = [s["interval"][0] <= target[n]["value"] <= s["interval"][1] for _ in range(80) for n, s in of(15).items()]
    assert 0.88 <= np.mean(hits) <= 0.99


def test_ratings_are_means_over_raters():
    """Intervals cover the mean rating that the simulation has; those over all ratings at once would not."""
    rng, asked = np.random.default_rng(2), study("rating", checks=2)
    many = [np.mean([ratings(rng, asked) for _ in range(3000)], axis=0)]
    target = {n: np.mean([many[0][i] for i, t in enumerate(asked.trials) if t[0][0] == n]) for n in RATINGS}
    hits = []
    for _ in range(80):
        found = scores(read(*(saved(asked, str(i), ratings(rng, asked)) for i in range(12))))
        hits += [s["interval"][0] <= target[n] <= s["interval"][1] for n, s in found["scores"].items()]
    assert list(found["scores"]) == ["data", "gan", "vae"]
    assert found["intervals"] == "by the spread between raters (Student's, 11 degrees of freedom)"
    assert found["differences"]["data - vae"]["interval"][0] > 1
    assert 0.9 <= np.mean(hits) <= 0.99


def test_raters_who_do_not_look_are_left_out():
    """Seven who look, and seven who always choose the left; of eight checks one may be missed."""
    rng, asked = np.random.default_rng(3), study()
    records = [saved(asked, f"looks {i}", choices(rng, asked)) for i in range(7)]
    lazy = [saved(asked, f"lazy {i}", [0] * len(asked.trials)) for i in range(7)]
    found, alone = scores(read(*records, *lazy)), scores(read(*records))
    assert found["scores"] == alone["scores"]
    assert [one["rater"] for one in found["raters"] if not one["passed"]] == [one["rater"] for one in lazy]
    assert {one["missed"] for one in found["raters"][7:]} == {4}
    assert "lazy 3 missed 4 of 8 attention checks: left out" in text(found)
    kept = scores(read(*records, *lazy), keep_failed=True)
    assert abs(kept["scores"]["vae"]["value"]) < abs(found["scores"]["vae"]["value"])
    with pytest.raises(DataError, match="all 7 raters missed"):
        scores(read(*lazy))


def test_one_rater_alone_is_described():
    rng, asked = np.random.default_rng(4), study()
    found = scores(read(saved(asked, "anna", choices(rng, asked))))
    assert found["intervals"] == "of rater 'anna' alone"
    rated = study("rating")
    assert scores(read(saved(rated, "anna", ratings(rng, rated))))["differences"] == {}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda r: json.dumps(r)[:-40], "is damaged"),
        (lambda r: "[]", "holds no answers"),
        (lambda r: json.dumps(r | {"answers": r["answers"][:-1]}), "43 of 44 answers; have rater 'ben' finish"),
        (lambda r: json.dumps(r | {"answers": r["answers"][:-1] + r["answers"][:1]}), "answers a trial twice"),
        (lambda r: json.dumps(r | {"answers": [a | {"answer": 2} for a in r["answers"]]}), "offers no such answers"),
        (lambda r: json.dumps(r | {"sets": ["data", "gan"]}), "offers no such answers"),
        (lambda r: json.dumps({k: v for k, v in r.items() if k != "mode"}), "it lacks 'mode'"),
        (lambda r: json.dumps(r | {"page": "abc"}), "anna.json the page .*one page at a time"),
        (lambda r: json.dumps(r | {"rater": "anna"}), "anna.json and ben.json are both of rater 'anna'"),
    ],
)
def test_files_that_cannot_be_scored(damage, said):
    asked = study()
    good, bad = (saved(asked, name, choices(np.random.default_rng(5), asked)) for name in ("anna", "ben"))
    with pytest.raises(DataError, match=said):
        human.read({"anna.json": json.dumps(good), "ben.json": damage(bad)})


def test_sets_that_cannot_be_compared():
    with pytest.raises(ConfigError, match="2 sets"):
        human.study({"a": images()})
    with pytest.raises(ConfigError, match="rename"):
        human.study({"a": images(), "noise": images()})
    with pytest.raises(ConfigError, match="a 6 x 6 x 1, b 6 x 5 x 1"):
        human.study({"a": images(), "b": images()[:, :, :5]})


def test_from_the_command_line(tmp_path, capsys):
    """A page of an archive and a dataset; then scores of two raters, and refusals in a sentence."""
    np.savez(tmp_path / "made.npz", image=np.random.default_rng(0).integers(256, size=(20, 8, 8, 1), dtype=np.uint8))
    place = tmp_path / "study.html"
    sets = f"data=digits,made={tmp_path / 'made.npz'}"
    settings = ["--trials=10", "--checks", "2", "--images=15", "--question=Better?", "--seed=3"]
    assert main(["evaluate", "--human", str(place), "--sets", sets, *settings]) == 0
    content = json.loads(re.search(r'id="study">(.*)</script>', place.read_text())[1])
    assert (content["question"], len(content["trials"])) == ("Better?", 12)
    assert {name: len(images) for name, images in content["images"].items()} == {"data": 15, "made": 15, "noise": 2}
    # Digits have 17 levels, of which the brightest is white.
    shown = np.stack([Image.open(io.BytesIO(base64.b64decode(one))) for one in content["images"]["data"]])
    assert (shown.shape, shown.min(), shown.max()) == ((15, 8, 8), 0, 255)
    asked = study(trials=12)
    for i in range(2):
        record = saved(asked, f"r{i}", choices(np.random.default_rng(i), asked))
        (tmp_path / f"r{i}.json").write_text(json.dumps(record))
    files = f"{tmp_path / 'r0.json'},{tmp_path / 'r1.json'}"
    assert main(["evaluate", "--answers", files, "--out", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "human.json").read_text())["answers"] == 24
    capsys.readouterr()
    for arguments, said in (
        (["--human", str(place)], "which sets?"),
        (["--human", str(place), "--sets", "a=digits,a=digits"], "one name"),
        (["--human", str(place), "--sets", f"a=digits,b={tmp_path / 'none.npz'}"], "--sets"),
        (["--answers", files, "--sets", "a=digits"], "--sets goes with --human, not with --answers; leave it out"),
        (["--answers", str(tmp_path / "none.json")], "cannot be read"),
        (["--answers", files, "--out", str(tmp_path / "r0.json")], "r0.json: File exists; choose another --out"),
    ):
        assert main(["evaluate", *arguments]) in (2, 3, 6)
        error = capsys.readouterr().err
        assert said in error
        assert len(error.splitlines()) == 1


# ---------------------------------------------------------------------------------------------- in a real browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not program():
        needs.missing("Chromium", "no page can be opened without a browser")
    opened = Browser(tmp_path_factory.mktemp("browser"))
    yield opened
    opened.close()


def begin(browser, place, asked, rater):
    place.write_text(page(asked, (6, 6, 1)))
    browser.open(place)
    browser.write(rater)
    browser.press("Enter")


def drawn(browser):
    """What is on the screen, as (set, image)."""
    sources = browser.evaluate("[...document.querySelectorAll('.picture img')].map(i => i.src.split(',')[1])")
    held = browser.evaluate("study.images")
    return [next((name, i) for name, all_ in held.items() for i, one in enumerate(all_) if one == s) for s in sources]


def remembered(browser, expected):
    """The number of answers after a reload, None without a rater. The reload is repeated until it is the expected."""
    # The page's storage is written by another process of the browser, which may be behind on a busy machine.
    for _ in range(20):
        browser.reload()
        if (count := browser.evaluate("state?.answers.length ?? null")) == expected:
            break
        time.sleep(0.5)
    return count


def test_the_page_asks_keeps_and_saves(browser, tmp_path):
    """Keys and clicks, a key held down, going back, a reload in between, and the file that is downloaded."""
    asked, name = study(trials=6, checks=2, question='Which is <real> & "true"?'), "Jürg </script> 2"
    begin(browser, tmp_path / "study.html", asked, name)
    seen = []
    for i in range(len(asked.trials)):
        seen.append(drawn(browser))
        assert browser.evaluate("element('count').textContent") == f"{i + 1} of 8"
        if i == 3:
            browser.press("ArrowRight", repeat=True)  # still held since the last one: no answer
            assert browser.evaluate("state.answers.length") == 3
            browser.press("Backspace")
            assert drawn(browser) == seen[2]
            browser.press("ArrowLeft")
            assert remembered(browser, 3) == 3
            assert drawn(browser) == seen[3]
        if i == 4:
            browser.click(".picture[data-answer=\\'1\\']")
        else:
            browser.press("ArrowRight" if i % 2 else "ArrowLeft")
    assert not browser.evaluate("element('end').hidden")
    assert browser.evaluate("element('trial').querySelector('h1').textContent") == asked.question
    browser.click("#save")
    (file,) = browser.downloaded("answers-*.json")
    assert file.name == "answers-Jürg-script-2.json"
    (found,) = human.read({file.name: file.read_text()})
    assert (found.page, found.rater, found.mode) == (asked.digest, name, "choice")
    assert found.given == [0, 1, 0, 1, 1, 1, 0, 1]
    assert [[tuple(item) for item in trial] for trial in seen] == found.shown
    assert all(0 <= time < 600_000 for time in found.milliseconds)


def test_raters_see_other_sides_orders_and_images(browser, tmp_path):
    """All of the same trials; half of the raters with sides changed."""
    asked = study(trials=30, checks=2)
    begin(browser, tmp_path / "raters.html", asked, "first")
    shown = browser.evaluate("""Array.from({length: 200}, (_, i) => {
        state = {rater: `rater ${i}`, answers: []};
        return study.trials.map((_, position) => trial(position));
    })""")
    planned = [[name for name, _ in trial] for trial in asked.trials]
    for one in shown:
        assert sorted(trial["trial"] for trial in one) == list(range(len(planned)))
    names = [[name for name, _ in one[0]["shown"]] == planned[one[0]["trial"]] for one in shown]
    assert 0.4 < np.mean(names) < 0.6
    assert len({one[0]["trial"] for one in shown}) > 25
    number = planned.index(["gan", "vae"])
    pairs = [sorted(map(tuple, trial["shown"])) for one in shown for trial in one if trial["trial"] == number]
    for i in range(2):
        assert len({pair[i] for pair in pairs}) > 25
    assert len(set(map(tuple, pairs))) > 150
    ours = [image for trial in shown[0] for name, image in trial["shown"] if name == "gan"]
    assert len(set(ours)) == len(ours)


def test_ratings_by_keys(browser, tmp_path):
    asked = study("rating", trials=6, checks=1)
    begin(browser, tmp_path / "rating.html", asked, "first")
    for i in range(len(asked.trials)):
        browser.press("7")  # no such rating
        browser.press(str(1 + i % 5))
    (found,) = human.read({"file": browser.evaluate("JSON.stringify(record())")})
    assert found.given == [1, 2, 3, 4, 5, 1, 2]
    browser.evaluate("window.confirm = () => true")
    browser.click("#another")
    assert not browser.evaluate("element('start').hidden")
    assert remembered(browser, None) is None


def test_the_page_fetches_nothing():
    content = page(study(trials=1), (6, 6, 1))
    assert "default-src 'none'; img-src data:" in content
    assert "http" not in content.replace("http-equiv", "")
