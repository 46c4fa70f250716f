"""genimg sweep experiments/beta_vae.py --workdir runs/beta_vae"""

from collections.abc import Sequence

from absl import flags

from genimg_jax.commands import command_line
from genimg_jax.errors import ConfigError, Failure
from genimg_jax.options import absolute

ABOUT = """runs an experiment: plans its trials, trains and evaluates what is missing, writes a report.

  genimg sweep experiments/beta_vae.py --workdir runs/beta_vae --dry_run
  genimg sweep experiments/beta_vae.py --workdir runs/beta_vae
  genimg sweep experiments/beta_vae.py --workdir runs/beta_vae --only 'beta=4.0,*' --max_runs 2
  genimg sweep status --workdir runs/beta_vae
  genimg sweep report --workdir runs/beta_vae

The same command goes on where it was cut. Exit codes: those of genimg train; 1 where a trial failed."""
KINDS = ("auto", "local", "slurm", "vectorised")


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "directory of the sweep, made if need be (required)", flag_values=values)
    flags.DEFINE_bool("dry_run", False, "show the plan and stop", flag_values=values)
    flags.DEFINE_string(
        "only", "", "train only the trials of this name, in which * stands for anything", flag_values=values
    )
    flags.DEFINE_integer("max_runs", 0, "train at most so many trials this time; 0: all", flag_values=values)
    flags.DEFINE_enum("launcher", "auto", KINDS, "where trials are trained", flag_values=values)
    flags.DEFINE_integer("workers", 0, "processes on this machine; 0: one a core", flag_values=values)
    flags.DEFINE_multi_string(
        "slurm", [], "a cluster's, such as partition=gpu,time=600,gpus_per_node=1", flag_values=values
    )
    flags.DEFINE_bool("mixed", False, "compare trials of different data or code all the same", flag_values=values)


def main(arguments: Sequence[str]) -> None:
    arguments = list(arguments)
    what = arguments.pop(0) if arguments and not arguments[0].startswith("-") else ""
    values = command_line.parse("sweep", ABOUT, define, arguments)
    if not what:
        raise ConfigError("which experiment? Give genimg sweep experiments/NAME.py --workdir DIRECTORY.")
    workdir = command_line.workdir(values)
    from genimg_jax.reports import sweep as report
    from genimg_jax.reports import sweep_plan
    from genimg_jax.sweeps import driver, experiment, plan

    if what == "status":
        print(sweep_plan.table(driver.states(plan.read(workdir))))
        return
    if what == "report":
        print(report.write(plan.read(workdir), values.mixed))
        return
    sweep, dropped = plan.plan(experiment.load(what), workdir)
    chosen = driver.select(sweep, values.only)
    print(f"{sweep.question}\n\n{sweep_plan.table(driver.states(sweep))}")
    if dropped:
        print(
            f"\n{len(dropped)} trials planned before are no more in {what}, and are left as they are: {dropped[0]}..."
        )
    if values.dry_run:
        return
    from genimg_jax.engine import config as configs
    from genimg_jax.engine import runtime
    from genimg_jax.sweeps import launchers

    cluster = command_line.items(values.slurm, lambda text: text.count("=") == 1)  # a value may hold commas
    launcher = launchers.choose(values.launcher, values.workers, launchers.parameters(cluster))
    print(runtime.prepare(configs.resolve(chosen[0].values).runtime), end="\n\n")
    with driver.locked(sweep):
        plan.write(sweep, absolute(what))
        outcomes = driver.run_trials(sweep, chosen, launcher, values.max_runs)
        print(f"\n{report.write(sweep, values.mixed)}")
    failed = [outcome.trial.name for outcome in outcomes if outcome.status == "failed"]
    if failed:
        raise Failure(
            f"{len(failed)} of {len(outcomes)} cells failed: {'; '.join(failed)}. The same command tries them again, "
            f"--only '{failed[0]}' that one alone."
        )
