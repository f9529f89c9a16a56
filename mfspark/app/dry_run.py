"""What a job would do, told without starting Spark or writing anything."""

import json
import os
from collections.abc import Iterator
from typing import Any

from mfspark import files
from mfspark.app.config import Config
from mfspark.app.disk import scratch_folders, shown_bytes
from mfspark.app.fit_plan import needs_of, plan_of, workload_of
from mfspark.app.run_directory import DEPENDENCIES, RunDirectory
from mfspark.data.fetch import place_of
from mfspark.engine.plan import Machine
from mfspark.errors import DataError


def describe_job(run: RunDirectory) -> str:
    """The configuration in force, the inputs, what the run has, and plan, memory and disk of a
    fit. ``DataError`` for an input that is not there."""
    parts = {
        "configuration (* not the default)": _configuration(run.config),
        "inputs": _inputs(run.config),
        f"run {run.path}": _outputs(run),
        f"fit, on the {os.cpu_count()} cores of this machine": _fit(run),
    }
    lines = ["dry run: nothing is started, nothing is written"]
    for title, told in parts.items():
        lines += ["", title, *[f"  {line}" for line in told]]
    return "\n".join(lines)


def _configuration(config: Config) -> Iterator[str]:
    for section, settings in config:
        yield from _values(section, settings)


def _values(place: str, settings: Any) -> Iterator[str]:
    """A line for each key, a mark before those that are not at their default."""
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if hasattr(value, "model_fields"):
            yield from _values(f"{place}.{name}", value)
            continue
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        shown = json.dumps(settings.model_dump(mode="json")[name], ensure_ascii=False)
        yield f"{' ' if value == default else '*'} {place}.{name} = {shown}"


def _inputs(config: Config) -> Iterator[str]:
    data = config.data
    if data.table is not None:
        yield f"ratings: table {data.table} of Spark's catalog, looked up when Spark runs"
    elif data.path is not None:
        yield _found("ratings", data.path)
    elif data.dataset == "synthetic":
        yield f"ratings: {config.synthetic.n_ratings} are drawn"
    else:
        place = place_of(str(data.dataset))
        there = _found("downloaded before", str(place)) if place.exists() else "will be downloaded"
        yield f"ratings: {data.dataset}, {there}"
    for what, path in (("items", data.items_path), ("users", data.users_path)):
        if path is not None:
            yield _found(what, path)


def _found(what: str, path: str) -> str:
    if not files.exists(path):
        raise DataError(f"{what}: there is nothing at {path}; check the path")
    found = files.listing(path)
    n_bytes = shown_bytes(sum(size for _, size, _ in found))
    return f"{what}: {path}, {len(found)} {'file' if len(found) == 1 else 'files'}, {n_bytes}"


def _outputs(run: RunDirectory) -> Iterator[str]:
    if not files.exists(run.path):
        yield "is new"
        return
    for step in DEPENDENCIES:
        yield f"{step}: {run.state_of(step)}"


def _fit(run: RunDirectory) -> Iterator[str]:
    """Plan, memory and disk; sizes are those of the ratings that were ingested."""
    if not files.exists(run.of("ingest.json")):
        yield "is planned when ingest has counted users, items and ratings; before that:"
        yield (
            "python -m mfspark.engine.plan --ratings … --users … --items … --rank "
            f"{run.config.trained.rank}"
        )
        return
    workload, cores = workload_of(run), os.cpu_count() or 1
    yield (
        f"{workload.n_ratings} ratings of {workload.n_users} users and {workload.n_items} items, "
        f"rank {workload.rank}"
    )
    plan = plan_of(run, workload, Machine(cores, cores))
    yield plan.describe()
    yield from (f"warning: {warning}" for warning in plan.warnings)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield (
        f"memory: {shown_bytes(plan.task_bytes)} in each Python worker, beside Spark's own "
        f"(spark.driver.memory, spark.executor.memory); this machine has {shown_bytes(memory)}"
    )
    for need in needs_of(run, workload, plan, scratch_folders("")):
        n_bytes, free = shown_bytes(need.n_bytes), shown_bytes(need.free_bytes)
        yield f"disk: {need.what}, about {n_bytes}; {free} are free in {need.folder}"
