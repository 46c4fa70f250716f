"""The page about a sweep: a single file that fetches nothing, like the page about a run."""

import datetime
import pathlib
from collections.abc import Sequence
from html import escape

from genimg_jax.reports import html
from genimg_jax.reports import sweep_figures as figures
from genimg_jax.reports.html import absent, picture, table
from genimg_jax.reports.sweep_plan import duration
from genimg_jax.sweeps import driver
from genimg_jax.sweeps.findings import Findings
from genimg_jax.sweeps.plan import Sweep
from genimg_jax.sweeps.trials import Trial

STYLE = """
.heat td, .heat th { padding: .3rem .6rem; border: 1px solid var(--surface); text-align: right; color: var(--ink); }
.heat th { color: var(--faint); } small { color: var(--faint); }
.legend span { margin-right: 1em; white-space: nowrap; }
#answer td { white-space: nowrap; }
.options { max-width: 600px; }
.verdict { color: var(--ink); font-size: 1.05rem; }
"""
SEEDS_DRAWN = 2
CONFIGURATIONS_DRAWN = 24


def page(
    sweep: Sweep,
    found: Findings,
    verdict: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str],
) -> str:
    """The HTML of the report; the table's texts are those of the Markdown one."""
    baseline = {row[0]: "baseline" for row in rows if row[0].endswith("(baseline)")}
    said = "".join(f"<p>{escape(note).replace('`', '')}</p>" for note in notes)
    sections = {
        "Answer": f'<p class="verdict">{escape(verdict)}</p>{table(rows, header, baseline)}{said}',
        "Scores": figures.scores(sweep, found) if _scored(found) else absent("No scores yet."),
        "Options": figures.swept(sweep, found),
        "Training": figures.curves(sweep, found),
        "Samples": _samples(sweep, found),
        "Differences": _differences(found),
        "Compute": _compute(found),
        "Trials": _trials(sweep),
    }
    return html.PAGE.format(
        title=escape(sweep.workdir.resolve().name),
        style=html.STYLE + figures.STYLE + STYLE,
        heading=escape(sweep.question),
        command=escape(str(sweep.workdir)),
        cards=_cards(sweep, found),
        sections="\n".join(
            f'<section id="{title.lower()}">\n<h2>{title}</h2>\n{body}\n</section>'
            for title, body in sections.items()
            if body
        ),
        written=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _scored(found: Findings) -> bool:
    return any(configuration.summary for configuration in found.configurations)


def _cards(sweep: Sweep, found: Findings) -> str:
    done = sum(len(s.trials) - s.unfinished for s in found.configurations)
    cards = {
        f"primary metric, {sweep.measure.better} is better": sweep.measure.primary.replace("_", " "),
        "baseline": sweep.baseline.replace(",", ", "),
        "configurations": str(len(found.configurations)),
        "trials with a score": f"{done} of {len(sweep.trials)}",
        "training, sum over trials": duration(sum(s.seconds for s in found.configurations)),
    }
    return "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in cards.items())


def _samples(sweep: Sweep, found: Findings) -> str:
    """The last sample grids of every configuration, side by side for the seeds that most of them have."""
    drawn = {
        (configuration.name, sweep.seeds[trial.digest]): grid
        for configuration in found.configurations[:CONFIGURATIONS_DRAWN]
        for trial in configuration.trials
        if (grid := _last_grid(trial)) is not None
    }
    if not drawn:
        return absent("No sample grids have been drawn yet.")
    seeds = [seed for _, seed in drawn]
    order = sorted(dict.fromkeys(seeds), key=lambda seed: (-seeds.count(seed), seed))[:SEEDS_DRAWN]
    parts = []
    for seed in order:
        pictures = "".join(
            f"<figure><figcaption>{escape(name)}</figcaption>{picture(grid, f'{name}, seed {seed}')}</figure>"
            for (name, its), grid in drawn.items()
            if its == seed
        )
        parts.append(f'<h3>Seed {seed}</h3><div class="samples">{pictures}</div>')
    left_out = len(found.configurations) - CONFIGURATIONS_DRAWN
    return "".join(parts) + (f"<p>{left_out} more configurations are left out.</p>" if left_out > 0 else "")


def _last_grid(trial: Trial) -> pathlib.Path | None:
    grids = [p for p in (trial.workdir / "samples").glob("*.png") if p.stem.isdecimal()]
    return max(grids, key=lambda p: int(p.stem), default=None)


def _differences(found: Findings) -> str:
    if not found.manifests:
        return absent("No trial is done yet.")
    if not found.differences:
        return "<p>The trials share their code, packages, machine and data.</p>"
    rows = [
        (key, value, len(names), ", ".join(names[:3]) + ("..." if len(names) > 3 else ""))
        for key, values in found.differences.items()
        for value, names in values.items()
    ]
    return (
        "<p>Where the trials' manifests, of code, packages, machine and data, differ: in all else they are alike.</p>"
        f"{table(rows, ('of the manifest', 'is', 'trials', 'such as'))}"
    )


def _compute(found: Findings) -> str:
    rows = [
        (s.name, len(s.trials), duration(s.seconds), duration(s.seconds / len(s.trials))) for s in found.configurations
    ]
    machines = {
        f"{manifest.get('cores')} core{'s' * (manifest.get('cores') != 1)}, {', '.join(manifest.get('devices', []))}"
        for manifest in found.manifests.values()
    }
    return f"<p>A trial had {escape(' or '.join(sorted(machines)))}.</p>" * bool(machines) + table(
        rows, ("configuration", "trials", "training", "a trial")
    )


def _trials(sweep: Sweep) -> str:
    rows = [
        (s.trial.name, s.status, f"{s.step:,}", duration(s.seconds), s.trial.digest, s.message.splitlines()[-1:] or "")
        for s in driver.states(sweep)
    ]
    return table(rows, ("trial", "state", "step", "training", "digest", "message"))
