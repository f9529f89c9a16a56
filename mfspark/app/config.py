"""TOML → validated configuration. Defaults live with the settings classes this is made of."""

import difflib
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mfspark import files
from mfspark.app.vector_stores import Store
from mfspark.columns import USER, Side
from mfspark.data.read import RatingsSource
from mfspark.data.split import SplitSettings
from mfspark.data.synthetic import SyntheticSettings
from mfspark.data.validate import Checks
from mfspark.errors import ConfigError
from mfspark.evaluation.ranking import RankingSettings
from mfspark.interpretation.tables import InterpretSettings
from mfspark.redact import holds_secret, redacted
from mfspark.settings import (
    CAUTION,
    ALSSettings,
    BayesianSettings,
    BiasOnlySettings,
    KNNSettings,
    PenalisedSettings,
    PredictorSettings,
    SGDSettings,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


Positive = Annotated[float, Field(gt=0)]
Published = Literal[
    "ratings", "model", "evaluation", "interpretation", "recommendations", "vectors"
]


class RunSettings(BaseModel):
    """Where a run leaves its files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field("default", description="name of the run's directory")
    directory: str = Field("runs", description="where run directories lie (path or URI)")
    overwrite: bool = Field(False, description="replace what an earlier run of that name left")
    keep: int = Field(
        files.KEPT_VERSIONS,
        ge=1,
        description="versions kept of each output on object stores, where a reader may still be at "
        "an older one",
    )
    resume: bool = Field(
        True,
        description="go on where a job that was broken off left: pipeline skips steps that are "
        "finished and whose inputs and settings have not changed, train goes on from its last "
        "snapshot; false begins anew (--no-resume)",
    )

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if not name.strip() or name in (".", "..") or re.search(r"[/\\\x00-\x1f\x7f]", name):
            raise ValueError(
                "it names a folder inside run.directory, so it may not be empty, . or .., nor hold "
                "slashes or control characters"
            )
        return name


class DataSettings(RatingsSource, Checks):
    """Which ratings to read, and what a good row is."""

    path: str | None = Field(  # type: ignore[assignment]
        None, description="file or folder of ratings (path or URI); goes before data.dataset"
    )
    table: str | None = Field(
        None,
        description="table of ratings in Spark's catalog, such as catalog.schema.ratings; goes "
        "before data.path",
    )
    table_filter: str | None = Field(
        None,
        description="SQL condition that rows of data.table must fulfil, such as day >= "
        "'2026-01-01'; on partition columns only those partitions are read",
    )
    dataset: str | None = Field(
        None, description="a dataset to download, or synthetic; used when data.path is not set"
    )
    unit: str = Field("stars", min_length=1, description="what ratings are counted in, for reports")
    fallback: Literal["synthetic"] | None = Field(
        None, description="what to use when the dataset cannot be downloaded"
    )

    @model_validator(mode="after")
    def _has_origin(self) -> "DataSettings":
        if self.path is None and self.dataset is None and self.table is None:
            raise ValueError("set path, table or dataset")
        if self.table_filter is not None and self.table is None:
            raise ValueError("table_filter is for rows of a table; set table, too")
        return self

    def checks(self) -> Checks:
        """What a good row is."""
        return Checks(**{name: getattr(self, name) for name in Checks.model_fields})

    def source(self, path: str) -> RatingsSource:
        """How to read the ratings at ``path``."""
        own = {name: getattr(self, name) for name in RatingsSource.model_fields if name != "path"}
        return RatingsSource(path=path, **own)


class TrainSettings(BaseModel):
    """Which model the jobs train and cross-validate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Literal["als", "sgd", "bayes"] = Field(
        "als", description="als, sgd or bayes, with the settings of the section of that name"
    )
    user_features: list[str] = Field(
        [], description="columns of the user table that bayes learns from, such as age"
    )
    item_features: list[str] = Field(
        [], description="columns of the item table that bayes learns from, such as genres and year"
    )

    save_every: str = Field(
        "60s",
        pattern=r"^\d+(\.\d+)?(s|min|h)$",
        description="how long a fit may go on before it leaves a snapshot to resume from, such as "
        "60s, 5min, 1h; 0s: after every iteration",
    )

    def features(self, side: Side) -> list[str]:
        """The columns of a side."""
        return self.user_features if side == USER else self.item_features

    @property
    def seconds_between_snapshots(self) -> float:
        """``save_every`` as a number."""
        number, unit = re.findall("[0-9.]+|[a-z]+", self.save_every)
        return float(number) * {"s": 1, "min": 60, "h": 3600}[unit]


class EvaluateSettings(BaseModel):
    """By which metadata the evaluation tells test ratings apart."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user_columns: list[str] | None = Field(
        None,
        description="columns of the user table, such as age; not set: all that divide users into "
        "classes",
    )
    item_columns: list[str] | None = Field(
        None,
        description="columns of the item table, such as genres and year; not set: as user_columns",
    )

    def columns(self, side: Side) -> list[str] | None:
        """The columns of a side."""
        return self.user_columns if side == USER else self.item_columns


class RecommendSettings(BaseModel):
    """Top-N lists of the recommend job."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n: int = Field(10, ge=1, description="length of the lists")
    lists: Literal["items_for_users", "users_for_items"] = Field(
        "items_for_users", description="what to list for whom"
    )
    min_ratings: int = Field(0, ge=0, description="leave out what has fewer training ratings")
    caution: float = Field(
        CAUTION,
        ge=0,
        description="standard deviations that are taken off predictions for want of ratings",
    )
    exclude_seen: bool = Field(True, description="leave out pairs that were rated in training")


class UpdateSettings(BaseModel):
    """How the update job brings the model of another run up to date."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str | None = Field(
        None, description="directory of the run to bring up to date (path or URI)"
    )
    method: Literal["auto", "fold_in", "warm_start"] = Field(
        "auto",
        description="fold_in solves for the rows whose ratings have changed, warm_start fits anew "
        "from the factors of the base, auto folds in what update.most_folded allows",
    )
    most_folded: float = Field(
        0.01,
        ge=0,
        le=1,
        description="share of new and changed training ratings up to which auto folds in",
    )


class ExportSettings(BaseModel):
    """Where else the export job puts the vectors of items."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stores: list[Store] = Field(
        default_factory=list,
        description="vector stores to write beside the Parquet files: faiss (an exact index), "
        "milvus (a file of Milvus Lite)",
    )


class PublishSettings(BaseModel):
    """What the publish job makes tables of, and where."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    into: str | None = Field(
        None,
        min_length=1,
        description="schema of the catalog, such as main.recommenders; must be there",
    )
    outputs: list[Published] = Field(
        ["model"], min_length=1, description="outputs of the run whose tables are published"
    )


class MlflowSettings(BaseModel):
    """Where the track job logs a run (pip install 'mfspark[mlflow]')."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tracking_uri: str | None = Field(
        None, description="MLflow's server or store; not set: MLFLOW_TRACKING_URI, or MLflow's own"
    )
    experiment: str = Field("mfspark", min_length=1, description="name of the experiment")


class CrossValidationSettings(BaseModel):
    """k-fold cross-validation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folds: int = Field(5, ge=2, description="number of folds")
    seed: int = Field(0, description="seed of the folds")


class RankStudySettings(BaseModel):
    """Which ranks to try."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ranks: list[Annotated[int, Field(ge=0)]] = Field(
        [0, 1, 2, 4, 8, 16, 32, 64], min_length=1, description="numbers of factors"
    )
    warm_start: bool = Field(
        False,
        description="go from the highest rank down and begin each fit with the first factors of "
        "the one before: fewer iterations, and lower errors of low ranks than train reaches",
    )


class LearningCurveSettings(BaseModel):
    """Which shares of the training ratings to learn from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shares: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        [0.1, 0.2, 0.4, 0.7], min_length=1, description="shares beside the whole"
    )
    seed: int = Field(0, description="seed of the shares")


class TuneSettings(BaseModel):
    """Which hyper-parameters to try (pip install 'mfspark[tune]')."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trials: int = Field(30, ge=1, description="trials in all, those of earlier sessions included")
    method: Literal["tpe", "random"] = Field(
        "tpe", description="tpe goes where earlier trials were good (Optuna), random anywhere"
    )
    models: list[Literal["als", "sgd", "bayes"]] = Field(
        ["als"], min_length=1, description="models to choose from; of bayes the rank alone"
    )
    rank: tuple[Annotated[int, Field(ge=1)], int] = Field((4, 64), description="lowest, highest")
    reg_param: tuple[Positive, Positive] = Field(
        (0.2, 5.0), description="lowest and highest λ, as they would be at ν = ½"
    )
    bias_reg_param: tuple[Positive, Positive] = Field(
        (0.1, 5.0), description="lowest and highest λ_b, as they would be at ν = ½"
    )
    reg_exponent: tuple[float, float] = Field((0.5, 0.5), description="lowest and highest ν")
    seed: int = Field(0, description="seed of the search")

    @field_validator("rank", "reg_param", "bias_reg_param", "reg_exponent")
    @classmethod
    def _is_a_range(cls, ends: tuple[float, float]) -> tuple[float, float]:
        if ends[0] > ends[1]:
            raise ValueError(f"the lowest value {ends[0]:g} is above the highest, {ends[1]:g}")
        return ends


ModelKind = Literal[
    "als", "sgd", "bayes", "global_mean", "bias_only", "item_knn", "user_knn", "mllib", "blend",
    "libmf", "cmfrec", "myfm", "surprise",
]  # fmt: skip


class PeerSettings(BaseModel):
    """What all peers share."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int | None = Field(None, ge=1, description="number of factors; not set: that of [als]")


class MllibSettings(PeerSettings):
    """``pyspark.ml`` ALS as a peer; what is not here is at its own default."""

    max_iter: int = Field(10, ge=1, description="iterations")
    reg_param: float = Field(0.1, ge=0, description="λ, scaled by the number of ratings")
    seed: int = Field(0, description="seed of the initial factors")


class LibmfSettings(PeerSettings):
    """LIBMF as a peer (pip install libmf): SGD without biases, which predicts no unknown ids."""

    max_iter: int = Field(20, ge=1, description="epochs")
    reg_param: float = Field(0.1, ge=0, description="λ")
    learning_rate: float = Field(0.1, gt=0, description="step size at the beginning")


class CmfrecSettings(PeerSettings):
    """cmfrec as a peer (pip install cmfrec): ALS with biases."""

    max_iter: int = Field(10, ge=1, description="iterations")
    reg_param: float = Field(10.0, ge=0, description="λ")
    scale_reg: bool = Field(False, description="whether λ is times the number of ratings")
    implicit_features: bool = Field(
        False, description="whether it also factorises the table of who rated what"
    )


class MyfmSettings(PeerSettings):
    """myFM as a peer (pip install myfm): factorisation machines by Gibbs sampling."""

    max_iter: int = Field(100, ge=10, description="sweeps")
    implicit_features: bool = Field(True, description="whether it also learns from who rated what")
    seed: int = Field(0, description="seed of the chain")


class SurpriseSettings(PeerSettings):
    """Surprise as a peer (pip install scikit-surprise): SGD with biases, its SVD."""

    max_iter: int = Field(20, ge=1, description="epochs")
    implicit_features: bool = Field(
        False, description="whether it also learns from who rated what (its SVDpp)"
    )
    seed: int = Field(0, description="seed of the initial factors")


class BlendSettings(BaseModel):
    """A linear blend of models, fitted to the validation ratings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    members: list[str] = Field(
        ["als", "sgd", "item_knn", "user_knn"],
        min_length=1,
        description="models to blend, by name or kind; those that are not compared are left out",
    )
    reg_param: float = Field(
        0.001, ge=0, description="weight of the ridge penalty on standardised predictions"
    )


class CompareSettings(BaseModel):
    """Which models to compare, and on what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: list[ModelKind | dict[str, Any]] = Field(
        [
            "global_mean",
            "bias_only",
            "item_knn",
            "user_knn",
            "mllib",
            "als",
            "sgd",
            "bayes",
            "blend",
        ],
        min_length=1,
        description="kinds, with the settings of the sections of these names; or tables of a kind, "
        'a name and settings of their own: { kind = "als", name = "ALS 8", rank = 8 }',
    )
    folds: int | None = Field(
        None, ge=2, description="compare by k-fold cross-validation; not set: by the split"
    )
    resamples: int = Field(
        1000, ge=100, description="bootstrap resamples of the users, for intervals of differences"
    )
    seed: int = Field(0, description="seed of the folds and of the resamples")


class BenchmarkSettings(BaseModel):
    """What the benchmark job measures, and against whom."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_ratings: list[int] = Field([1_000_000], description="sizes of the synthetic ratings")
    ranks: list[int] = Field([10, 64], description="ranks to fit")
    iterations: int = Field(10, ge=3, description="iterations of each fit")
    rounds: int = Field(3, ge=1, description="times that everything is measured; medians count")
    peers: list[Literal["mllib", "sgd", "libmf", "cmfrec", "cmfrec_cg"]] = Field(
        ["mllib"],
        description="whom to measure beside our own ALS: mllib, sgd (also our own), or libmf, "
        "cmfrec and cmfrec_cg, which are packages to install first",
    )
    mllib_reg_param: float = Field(0.05, ge=0, description="regParam of pyspark.ml ALS")


# Keys of [als] that [sgd] takes over; how long to go on is a matter of each.
SHARED_WITH_SGD = set(PenalisedSettings.model_fields) - {"max_iter", "tol", "seed"}


class Config(BaseModel):
    """The whole configuration; each job reads the sections it needs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: RunSettings = Field(default_factory=RunSettings)
    data: DataSettings
    synthetic: SyntheticSettings = Field(default_factory=SyntheticSettings)
    split: SplitSettings = Field(default_factory=SplitSettings)
    train: TrainSettings = Field(default_factory=TrainSettings)
    als: ALSSettings = Field(default_factory=ALSSettings)
    sgd: SGDSettings = Field(default_factory=SGDSettings)
    bayes: BayesianSettings = Field(default_factory=BayesianSettings)
    global_mean: PredictorSettings = Field(default_factory=PredictorSettings)
    bias_only: BiasOnlySettings = Field(default_factory=BiasOnlySettings)
    item_knn: KNNSettings = Field(default_factory=KNNSettings)
    user_knn: KNNSettings = Field(default_factory=KNNSettings)
    mllib: MllibSettings = Field(default_factory=MllibSettings)
    libmf: LibmfSettings = Field(default_factory=LibmfSettings)
    cmfrec: CmfrecSettings = Field(default_factory=CmfrecSettings)
    myfm: MyfmSettings = Field(default_factory=MyfmSettings)
    surprise: SurpriseSettings = Field(default_factory=SurpriseSettings)
    blend: BlendSettings = Field(default_factory=BlendSettings)
    interpret: InterpretSettings = Field(default_factory=InterpretSettings)
    evaluate: EvaluateSettings = Field(default_factory=EvaluateSettings)
    recommend: RecommendSettings = Field(default_factory=RecommendSettings)
    ranking: RankingSettings = Field(default_factory=RankingSettings)
    cross_validation: CrossValidationSettings = Field(default_factory=CrossValidationSettings)
    update: UpdateSettings = Field(default_factory=UpdateSettings)
    export: ExportSettings = Field(default_factory=ExportSettings)
    publish: PublishSettings = Field(default_factory=PublishSettings)
    mlflow: MlflowSettings = Field(default_factory=MlflowSettings)
    ranks: RankStudySettings = Field(default_factory=RankStudySettings)
    learning_curve: LearningCurveSettings = Field(default_factory=LearningCurveSettings)
    tune: TuneSettings = Field(default_factory=TuneSettings)
    compare: CompareSettings = Field(default_factory=CompareSettings)
    benchmark: BenchmarkSettings = Field(default_factory=BenchmarkSettings)

    @property
    def trained(self) -> ALSSettings | SGDSettings | BayesianSettings:
        """The settings of the model that ``train.model`` names."""
        if self.train.model == "als":
            return self.als
        return self.sgd if self.train.model == "sgd" else self.bayes

    @model_validator(mode="before")
    @classmethod
    def _sgd_follows_als(cls, content: Any) -> Any:
        """Both fit the same model: what [als] says of it holds for [sgd], unless that says else."""
        als, sgd = (content.get(name, {}) for name in ("als", "sgd"))
        if not (isinstance(als, dict) and isinstance(sgd, dict)):
            return content
        shared = {name: als[name] for name in SHARED_WITH_SGD if name in als}
        return {**content, "sgd": {**shared, **sgd}}


def load_config(path: str, overrides: list[str]) -> Config:
    """Read ``path`` and apply ``section.key=value`` overrides (values in TOML, or plain text).

    Raises ``ConfigError`` for a missing file, bad TOML, an unknown key or a value out of bounds.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError:
        raise ConfigError(f"there is no configuration file {path}; see conf/ for some") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    for override in overrides:
        _apply(content, override)
    _refuse_secrets(content, [])
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, Config)}") from None


def _refuse_secrets(value: Any, place: list[str]) -> None:
    """``ConfigError`` for a path with a secret in it: the configuration is stored with the run."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _refuse_secrets(inner, [*place, name])
    elif isinstance(value, list):
        for inner in value:
            _refuse_secrets(inner, place)
    elif isinstance(value, str) and holds_secret(value):
        raise ConfigError(
            f"{'.'.join(place)} = {redacted(value)!r} holds a secret, which would be stored with "
            "the run and shown in its report; leave it out of the URI, and give it to Spark as a "
            "property (spark.hadoop.…) or by the environment"
        )


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or len(parts) < 2:
        raise ConfigError(f"--set {override!r} is not of the form section.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        value = text
    section = content
    for part in parts[:-1]:
        section = section.setdefault(part, {})
        if not isinstance(section, dict):
            raise ConfigError(f"--set {override!r}: {part!r} is a value, not a section")
    section[parts[-1]] = value


def explain(error: ValidationError, model: type[BaseModel], place: str = "") -> str:
    """The first problem of ``model``, with the key as it is written and the nearest known key;
    ``place`` is where the model stands in the file."""
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    name = ".".join([place, *location] if place else location)
    if first["type"] == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        return f"unknown key {name!r}; {hint}"
    if first["type"] == "missing":
        return f"{name!r} is not set; add it to the file or pass --set {name}=…"
    message = first["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(first["input"], dict) else f" = {first['input']!r}"
    return f"{name}{shown} is not allowed: {message[0].lower()}{message[1:]}"


def _known_keys(model: Any, sections: list[str]) -> list[str]:
    for section in sections:
        model = model.model_fields[section].annotation
    return list(model.model_fields)
