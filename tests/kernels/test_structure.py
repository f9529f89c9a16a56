"""What must hold of the source tree itself."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mfspark"
SOURCES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def functions(path: Path) -> list[ast.FunctionDef]:
    tree = ast.parse(path.read_text())
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def imported(path: Path) -> set[str]:
    """Names of the modules of mfspark that a file imports, and those of what it imports of them."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{name.name}" for name in node.names}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found


def test_one_file_name_is_one_file():
    names = Counter(path.name for path in SOURCES if path.name != "__init__.py")
    assert [name for name, n in names.items() if n > 1] == []


def test_no_function_returns_a_dictionary_of_anything():
    found = [
        f"{path.name}: {function.name}"
        for path in SOURCES
        for function in functions(path)
        if function.returns and re.fullmatch(r"dict\[str, Any\]", ast.unparse(function.returns))
    ]
    assert found == []


def test_long_functions_say_what_they_do():
    found = [
        f"{path.name}: {function.name}"
        for path in SOURCES
        for function in functions(path)
        if function.end_lineno - function.lineno >= 15
        and not ast.get_docstring(function)
        # Constructors are described by their class, magic methods by Python.
        and not re.fullmatch("__.*__", function.name)
    ]
    assert found == []


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_tests_use_no_private_names(path):
    private = {
        name
        for name in imported(path)
        if name.startswith("mfspark") and re.search(r"\._(?!_)", name)
    }
    assert private == set()
    # Patches and sources of other processes that name what is private to a module.
    assert (
        re.findall(r"mfspark\.[\w.]*\._(?!_)\w+|from mfspark\S* import .*\b_\w+", path.read_text())
        == []
    )


@pytest.mark.parametrize("folder", ["kernels", "algorithms"])
def test_tests_of_kernels_and_algorithms_know_no_spark(folder):
    found = [
        f"{path.name}: {name}"
        for path in sorted((ROOT / "tests" / folder).glob("*.py"))
        for name in imported(path)
        if re.match(r"pyspark|chispa|mfspark\.(engine|models|app|evaluation)", name)
    ]
    assert found == []


# What a reader need not open to follow a fit: the names of its functions say all.
LEAVES = {
    "columns", "errors", "ids", "settings", "spark_errors", "files", "persisted",
    "small_tables",
    "kernels.arrays", "kernels.compiled", "kernels.csr", "kernels.objective", "kernels.random",
    "kernels.warm",
    # Parts of the solver of a row, and of other kernels that are named by their formula.
    "kernels.moments", "kernels.ridge", "kernels.one_vector", "kernels.conjugate_gradients",
    "kernels.products", "kernels.rotation",
    "algorithms.start", "algorithms.sharing",
    "engine.start_cells", "engine.cells", "engine.factor_cells", "engine.kept_cells",
    "engine.compiling", "engine.machine", "engine.phases", "engine.plan", "engine.progress",
    "engine.recovery", "engine.telemetry", "engine.workspace",
    # What a fit is given beside its packs, and what it returns: no pass.
    "engine.training",
    # What comes before and after: Params, the model and how it predicts.
    "models.params", "models.frames", "models.factor_model", "models.factor_storage",
    "models.metadata",
    "models.persistence", "models.prediction", "models.matching", "models.broadcast",
    "models.candidate_blocks",
    "models.uncertainty", "models.similar", "models.fold_in",
    "models.drawn_fold_in", "models.local_model", "models.turned_factors", "models.list_columns",
    "kernels.predict", "kernels.similarity", "kernels.new_rows", "kernels.influence",
}  # fmt: skip


class Way:
    """The files that calls lead to from a function, by the names that its body mentions."""

    def __init__(self, without: set[tuple[str, str]]) -> None:
        self.seen = set(without)
        self.files: list[str] = []

    def follow(self, module: str, name: str) -> None:
        path = PACKAGE / f"{module.replace('.', '/')}.py"
        if (module, name) in self.seen or not path.exists():
            return
        self.seen.add((module, name))
        tree = ast.parse(path.read_text())
        own = {node.name: node for node in tree.body if hasattr(node, "name")}
        elsewhere = {
            alias.name: node.module.removeprefix("mfspark.")
            for node in tree.body
            if isinstance(node, ast.ImportFrom) and node.module.startswith("mfspark.")
            for alias in node.names
        }
        if name not in own:
            return
        if module not in self.files:
            self.files.append(module)
        parts = own[name].body if isinstance(own[name], ast.ClassDef) else [own[name]]
        for part in parts:
            # Not what is only named as a type.
            for statement in part.body if isinstance(part, ast.FunctionDef) else []:
                for node in ast.walk(statement):
                    if isinstance(node, ast.Name) and node.id in own:
                        self.follow(module, node.id)
                    elif isinstance(node, ast.Name) and node.id in elsewhere:
                        self.follow(elsewhere[node.id], node.id)


# Functions of a station on one way that another way uses for what their names say.
SHARED = {
    ("engine.factor_tables", "factor_batches"),
    ("engine.factor_tables", "table_bytes"),
    ("algorithms.indexed_ratings", "with_validation_column"),
    ("algorithms.indexed_ratings", "encode_ids"),
    ("algorithms.indexed_ratings", "count_codes"),
    # What a model with a posterior takes from the sampler for new rows, after its fit.
    ("models.drawn_fold_in", "drawn_fold_in_of"),
}


IN_ONE_TASK = {("engine.one_task", "fit_in_one_task"), ("algorithms.als_threads", "ThreadedALS")}
ON_BLOCKS = {("engine.fit_als", "_als_on_blocks")}
# Ends before the fit begins, and is a fit of its own.
PILOT = {("engine.pilot", "with_weights")}
# What implicit features add to a pass; without them none of it is called.
LINK = {
    ("algorithms.fitted_link", name)
    for name in (
        "FittedLink",
        "start_links",
        "rest_of",
        "fit_link",
        "penalty_of",
        "arrays_of",
        "with_arrays",
    )
}

# The other way of an iteration on blocks.
BY_MOMENTS = {
    ("engine.summed_iteration", name)
    for name in ("run_summed_iteration", "SummedBlockFormat", "SummedItems")
}

# What snapshots add to a fit; without them none of it is called in the loop.
SNAPSHOTS = {("engine.saved_cells", "FitSnapshots")} | {
    ("algorithms.snapshots", name)
    for name in ("Snapshots", "LoopState", "Saver", "resume", "save_arrays")
}


@pytest.mark.parametrize(
    ("start", "most", "other"),
    [
        (("models.biased_als", "BiasedALS"), 9, ON_BLOCKS | PILOT | LINK | SNAPSHOTS),
        (("models.biased_als", "BiasedALS"), 13, IN_ONE_TASK | PILOT | SNAPSHOTS | BY_MOMENTS),
        (("engine.summed_iteration", "run_summed_iteration"), 9, set()),
        (("engine.pilot", "with_weights"), 9, LINK),
        (("algorithms.fitted_link", "fit_link"), 3, set()),
        (("algorithms.fitted_link", "start_links"), 3, set()),
    ],
    ids=["one task", "distributed", "by moments", "pilot", "link", "its start"],
)
def test_a_fit_leads_down_a_few_files(start, most, other):
    """``other``: where other ways of fitting begin."""
    way = Way(other | SHARED)
    way.follow(*start)
    stations = [module for module in way.files if module not in LEAVES]
    assert len(stations) <= most, ", ".join(stations)


def test_one_file_names_every_station_of_a_fit():
    """The distributed stations are named in ``fit_als`` itself, in the order of the table."""
    (function,) = (
        function
        for function in functions(PACKAGE / "engine/fit_als.py")
        if function.name == "_als_on_blocks"
    )
    names = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
    called = [node.id for node in sorted(names, key=lambda node: (node.lineno, node.col_offset))]
    stations = [
        "encode_ratings", "count_ids", "index_sides", "start_factors", "build_blocks",
        "make_exchange", "History", "run_half_step", "factor_tables", "Learnt",
    ]  # fmt: skip
    places = [called.index(name) for name in stations]
    assert places == sorted(places)
    assert "run_summed_iteration" in called
