"""The property files of conf/: Spark knows every property, and each has its reason."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
from running import ROOT

FILES = sorted((ROOT / "conf").glob("*.conf"))
# Those that are no entries of Spark's own list: prefixes, and what Python reads.
OPEN = re.compile(
    r"spark\.(executorEnv|hadoop|yarn\.appMasterEnv"
    r"|kubernetes\.(executor\.volumes|executor\.node\.selector))\.\S+|spark\.(log\.level|master)"
)
REGISTRIES = (
    "org.apache.spark.internal.config.package$",
    "org.apache.spark.internal.config.Python$",
    "org.apache.spark.internal.config.UI$",
    "org.apache.spark.internal.config.Worker$",
    "org.apache.spark.deploy.yarn.config.package$",
    "org.apache.spark.deploy.k8s.Config$",
    "org.apache.spark.sql.internal.SQLConf$",
)


def properties(path: Path) -> list[str]:
    """Those that are set and those that are shown in a comment."""
    return re.findall(r"^#? ?(spark\.\S+) +\S", path.read_text(), re.MULTILINE)


@pytest.mark.classic
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_spark_knows_every_property(spark, path):
    jvm = spark._jvm
    for registry in REGISTRIES:
        jvm.java.lang.Class.forName(registry)
    find = jvm.org.apache.spark.internal.config.ConfigEntry.findEntry
    names = [name for name in properties(path) if not OPEN.fullmatch(name)]
    assert len(names) > 3
    unknown = [name for name in names if find(name) is None]
    assert unknown == []


def test_a_misspelt_property_would_be_noticed(spark):
    find = spark._jvm.org.apache.spark.internal.config.ConfigEntry.findEntry
    assert find("spark.executor.memory") is not None
    assert find("spark.executor.memry") is None


@pytest.mark.parametrize("name", ["standalone.conf", "yarn.conf", "kubernetes.conf"])
def test_files_of_cluster_managers_add_to_that_of_clusters(name):
    """Put together, no property is there twice."""
    both = properties(ROOT / "conf/cluster.conf") + properties(ROOT / "conf" / name)
    assert len(both) == len(set(both))
    # A reason stands above each of them or of a few that belong together.
    lines = (ROOT / "conf" / name).read_text().splitlines()
    assert lines[0].startswith("# What ")
    bare = [
        line
        for before, line in pairwise(lines[2:])
        if line.startswith("spark.") and not before.startswith(("#", "spark."))
    ]
    assert bare == []
