"""The HTML page about a sweep: a single file without external resources, like the page about a run."""

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
    findings: Findings,
    verdict: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str],
) -> str:
    """The HTML of the report; the table has the texts of the Markdown table."""
    baseline = {row[0]: "baseline" for row in rows if row[0].endswith("(baseline)")}
    paragraphs = "".join(f"<p>{escape(note).replace('`', '')}</p>" for note in notes)
    sections = {
        "Answer": f'<p class="verdict">{escape(verdict)}</p>{table(rows, header, baseline)}{paragraphs}',
        "Scores": figures.scores(sweep, findings) if _scored(findings) else absent("No scores yet."),
        "Options": figures.swept(sweep, findings),
        "Training": figures.curves(sweep, findings),
        "Samples": _samples(sweep, findings),
        "Differences": _differences(findings),
        "Compute": _compute(findings),
        "Trials": _trials(sweep),
    }
    return html.PAGE.format(
        title=escape(sweep.workdir.resolve().name),
        style=html.STYLE + figures.STYLE + STYLE,
        heading=escape(sweep.question),
        command=escape(str(sweep.workdir)),
        cards=_cards(sweep, findings),
        sections="\n".join(
            f'<section id="{title.lower()}">\n<h2>{title}</h2>\n{body}\n</section>'
            for title, body in sections.items()
            if body
        ),
        written=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _scored(findings: Findings) -> bool:
    return any(configuration.summary for configuration in findings.configurations)


def _cards(sweep: Sweep, findings: Findings) -> str:
    done = sum(len(s.trials) - s.unfinished for s in findings.configurations)
    cards = {
        f"primary metric, {sweep.measure.better} is better": sweep.measure.primary.replace("_", " "),
        "baseline": sweep.baseline.replace(",", ", "),
        "configurations": str(len(findings.configurations)),
        "trials with a score": f"{done} of {len(sweep.trials)}",
        "training, sum over trials": duration(sum(s.seconds for s in findings.configurations)),
    }
    return "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in cards.items())


def _samples(sweep: Sweep, findings: Findings) -> str:
    """The last sample grid of every configuration, for the seeds that most configurations have."""
    grids = {
        (configuration.name, sweep.seeds[trial.digest]): grid
        for configuration in findings.configurations[:CONFIGURATIONS_DRAWN]
        for trial in configuration.trials
        if (grid := _last_grid(trial)) is not None
    }
    if not grids:
        return absent("No sample grids have been drawn yet.")
    seeds = [seed for _, seed in grids]
    order = sorted(dict.fromkeys(seeds), key=lambda seed: (-seeds.count(seed), seed))[:SEEDS_DRAWN]
    parts = []
    for seed in order:
        pictures = "".join(
            f"<figure><figcaption>{escape(name)}</figcaption>{picture(grid, f'{name}, seed {seed}')}</figure>"
            for (name, of_seed), grid in grids.items()
            if of_seed == seed
        )
        parts.append(f'<h3>Seed {seed}</h3><div class="samples">{pictures}</div>')
    left_out = len(findings.configurations) - CONFIGURATIONS_DRAWN
    return "".join(parts) + (f"<p>{left_out} more configurations are left out.</p>" if left_out > 0 else "")


def _last_grid(trial: Trial) -> pathlib.Path | None:
    grids = [p for p in (trial.workdir / "samples").glob("*.png") if p.stem.isdecimal()]
    return max(grids, key=lambda p: int(p.stem), default=None)


def _differences(findings: Findings) -> str:
    if not findings.manifests:
        return absent("No trial is done yet.")
    if not findings.differences:
        return "<p>The trials share their code, packages, machine and data.</p>"
    rows = [
        (key, value, len(names), ", ".join(names[:3]) + ("..." if len(names) > 3 else ""))
        for key, values in findings.differences.items()
        for value, names in values.items()
    ]
    return (
        "<p>Where the trials' manifests, of code, packages, machine and data, differ: in all else they are alike.</p>"
        f"{table(rows, ('of the manifest', 'is', 'trials', 'such as'))}"
    )


def _compute(findings: Findings) -> str:
    rows = [
        (s.name, len(s.trials), duration(s.seconds), duration(s.seconds / len(s.trials)))
        for s in findings.configurations
    ]
    machines = {
        f"{manifest.get('cores')} core{'s' * (manifest.get('cores') != 1)}, {', '.join(manifest.get('devices', []))}"
        for manifest in findings.manifests.values()
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
