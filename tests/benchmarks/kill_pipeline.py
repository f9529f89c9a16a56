"""A pipeline killed at random moments of its progress, and resumed each time by the same command.

    python tests/benchmarks/kill_pipeline.py [--kills 20] [--seed 0]

Driver, JVM and workers get SIGKILL when the console has shown a random number of the lines that a
whole run shows. A pipeline that comes to its end is compared with an undisturbed one: factors
(1e-5), figures, text of the report, names of files; then another one is begun, until there were so
many kills.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from killing import Job, assert_same_run, make_place


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "place"
        place.mkdir()
        make_place(place)
        started = time.monotonic()
        whole = Job(place, "pipeline")
        assert whole.end() == 0, "".join(whole.lines)
        n_lines = len(whole.lines)
        print(f"undisturbed: {n_lines} lines, {time.monotonic() - started:.0f} s", flush=True)
        expected = (place / "runs/mine").rename(Path(scratch) / "expected")
        n_kills = n_compared = 0
        while n_kills < arguments.kills:
            job, limit = Job(place, "pipeline"), rng.randint(1, n_lines)
            is_alive = job.watch("", limit)
            if is_alive:
                job.kill()
                n_kills += 1
                print(f"kill {n_kills}: after {limit} lines: {job.lines[-1].strip()}", flush=True)
                continue
            assert job.end() == 0, "".join(job.lines)
            assert_same_run(place / "runs/mine", expected)
            n_compared += 1
            print("came to its end: the same", flush=True)
            shutil.rmtree(place / "runs")
        last = Job(place, "pipeline")
        assert last.end() == 0, "".join(last.lines)
        assert_same_run(place / "runs/mine", expected)
        print(f"{n_kills} kills, {n_compared + 1} pipelines: each the same as the undisturbed one")


if __name__ == "__main__":
    main()
