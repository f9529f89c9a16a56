"""A job without spark-submit: python -m mfspark JOB --config FILE [--set SECTION.KEY=VALUE …]

Spark starts on this machine, with the properties of conf/local.conf, here or beside the sources,
where that is there. On a cluster jobs are submitted: spark-submit jobs/JOB.py.
"""

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path

from mfspark.app import cli

_STEPS = "mfspark.app.steps"
JOBS = {
    "pipeline": (_STEPS, "pipeline"),
    "ingest": ("mfspark.app.ingest", "ingest"),
    "train": (_STEPS, "train"),
    "evaluate": (_STEPS, "evaluate_model"),
    "interpret": (_STEPS, "interpret_model"),
    "recommend": (_STEPS, "recommend"),
    "export": ("mfspark.app.export", "export"),
    "report": (_STEPS, "report"),
    "publish": ("mfspark.app.publish", "publish"),
    "track": ("mfspark.app.track", "track"),
    "update": ("mfspark.app.update", "update"),
    "cross_validate": ("mfspark.app.cross_validate", "cross_validate"),
    "ranks": ("mfspark.app.rank_study", "rank_study"),
    "learning_curve": ("mfspark.app.learning_curve", "learning_curve"),
    "tune": ("mfspark.app.tune", "tune"),
    "compare": ("mfspark.app.compare", "compare_models"),
    "benchmark": ("mfspark.app.benchmark", "benchmark"),
}
_PROPERTIES = "conf/local.conf"
_PLACES = Path(_PROPERTIES), Path(__file__).parents[1] / _PROPERTIES


def main() -> None:
    """Run the job that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m mfspark", description=__doc__, add_help=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("job", nargs="?", choices=JOBS, metavar="JOB", help=", ".join(JOBS))
    parser.add_argument(
        "--properties-file", metavar="FILE", help=f"properties of Spark (default: {_PROPERTIES})"
    )
    chosen, rest = parser.parse_known_args()
    if chosen.job is None:
        parser.print_help()
        sys.exit(0 if {"-h", "--help"} & {*rest} else 2)
    found = [str(place) for place in _PLACES if place.is_file()]
    properties = chosen.properties_file or next(iter(found), None)
    if properties is not None:
        if not Path(properties).is_file():
            sys.exit(f"mfspark: error: there is no file {properties}; set --properties-file")
        os.environ["PYSPARK_SUBMIT_ARGS"] = f'--properties-file "{properties}" pyspark-shell'
    module, name = JOBS[chosen.job]
    step = getattr(import_module(module), name)
    sys.argv = [f"python -m mfspark {chosen.job}", *rest]
    cli.main(step, step.__doc__)


if __name__ == "__main__":
    main()
