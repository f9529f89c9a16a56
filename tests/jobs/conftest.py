"""A pipeline run that several tests look at; who changes it takes a copy."""

from pathlib import Path

import pytest
from running import Finished, make_ratings, run_job


@pytest.fixture(scope="session")
def finished(spark, tmp_path_factory) -> tuple[Path, Finished]:
    """A pipeline run on a user's own CSV file."""
    folder = tmp_path_factory.mktemp("user")
    make_ratings(folder / "ratings.csv")
    items = [f"i-{n},Title {n},{1950 + n},A|B" for n in range(61)]
    items[0] = 'i-0,"<script>alert(1)</script> & Co. $x$",2000,A'
    items[1] = 'i-1,"Odd One, The",1951,A|B'
    (folder / "items.csv").write_text("item,title,year,genres\n" + "\n".join(items) + "\n")
    users = [f"u{n},{20 + n % 40},{'abc'[n % 3]}" for n in range(101)]
    (folder / "users.csv").write_text("user,age,group\n" + "\n".join([*users, "new,33,b"]) + "\n")
    (folder / "run.toml").write_text(
        '[run]\nname = "mine"\n[data]\npath = "ratings.csv"\nitems_path = "items.csv"\n'
        'users_path = "users.csv"\n'
        'duplicates = "mean"\n[split]\nvalidation = 0.1\n[als]\nrank = 3\nmax_iter = 3\n'
        '[interpret]\nsimilar_to = ["i-0", "i-1"]\nrefits = 2\n'
    )
    return folder, run_job(spark, "pipeline", folder / "run.toml")
