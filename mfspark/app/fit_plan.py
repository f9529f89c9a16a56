"""What the fit of a run will cost, from the counts of its ratings."""

from mfspark.app.disk import DiskNeed, fit_needs
from mfspark.app.run_directory import RunDirectory
from mfspark.columns import Side
from mfspark.engine.plan import Machine, Plan, Workload, plan_als, plan_bayes, plan_sgd
from mfspark.settings import BayesianSettings, SGDSettings


def workload_of(run: RunDirectory) -> Workload:
    """The size of the fit to ratings/train, from the counts in ingest.json."""
    found = run.ingested()
    return Workload(found.split["train"], found.users, found.items, run.config.trained.rank)


def plan_of(run: RunDirectory, workload: Workload, machine: Machine) -> Plan:
    """How the model of the run will be fitted."""
    settings = run.config.trained
    if isinstance(settings, BayesianSettings):
        has_features = settings.implicit_features or any(map(run.config.train.features, Side))
        return plan_bayes(workload, settings, machine, has_features)
    if isinstance(settings, SGDSettings):
        return plan_sgd(workload, settings, machine)
    return plan_als(workload, settings, machine)


def needs_of(
    run: RunDirectory, workload: Workload, plan: Plan, scratch: list[str]
) -> list[DiskNeed]:
    """What the fit will write to disks of this machine; ``scratch``: folders of Spark's."""
    settings = run.config.trained
    n_draws = settings.keep_draws if isinstance(settings, BayesianSettings) else 0
    return fit_needs(workload, plan, run.path, scratch, n_draws)
