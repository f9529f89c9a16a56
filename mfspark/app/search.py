"""Where a search for hyper-parameters looks next: Optuna's samplers and pruner."""

import math
from typing import TYPE_CHECKING, Protocol

from mfspark.app.config import TuneSettings
from mfspark.errors import ConfigError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

Choice = dict[str, str | int | float | None]
# Trials that end before any may be pruned.
_STARTUP_TRIALS = 5


class Past(Protocol):
    """What is known of a trial that has ended."""

    @property
    def model(self) -> str:
        """als, sgd or bayes."""

    @property
    def rank(self) -> int:
        """Number of factors."""

    @property
    def reg_param(self) -> float | None:
        """λ."""

    @property
    def bias_reg_param(self) -> float | None:
        """λ_b."""

    @property
    def reg_exponent(self) -> float | None:
        """ν."""

    @property
    def validation_rmse(self) -> float | None:
        """Of complete trials."""

    @property
    def first_rmse(self) -> float | None:
        """After the first look."""


class Search:
    """Asks for one trial after the other, and learns from those that have ended.

    The weights λ and λ_b are looked for as they would be at ν = ½, and multiplied by n̄^(½ − ν),
    with n̄ the ratings of an average row: the same weight means much more at ν = 1.
    """

    def __init__(self, settings: TuneSettings, ratings_per_row: float, past: list[Past]) -> None:
        try:
            import optuna
        except ImportError:
            raise ConfigError(
                "the search for hyper-parameters needs Optuna; pip install 'mfspark[tune]'"
            ) from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._settings, self._per_row = settings, max(ratings_per_row, 1.0)
        # Of another seed when it goes on, or a random search would draw the same again.
        seed = settings.seed + len(past)
        samplers = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}
        self._study = optuna.create_study(
            sampler=samplers[settings.method](seed=seed),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_STARTUP_TRIALS),
        )
        for each in past:
            self._remember(each)

    def ask(self) -> tuple["Trial", Choice]:
        """The next trial, and its model and hyper-parameters."""
        trial, settings = self._study.ask(), self._settings
        model = trial.suggest_categorical("model", list(settings.models))
        choice: Choice = {
            "model": model, "rank": trial.suggest_int("rank", *settings.rank, log=True),
            "reg_param": None, "bias_reg_param": None, "reg_exponent": None,
        }  # fmt: skip
        if model == "bayes":
            return trial, choice
        exponent = trial.suggest_float("reg_exponent", *settings.reg_exponent)
        by = self._per_row ** (0.5 - exponent)
        return trial, choice | {
            "reg_exponent": exponent,
            "reg_param": by * trial.suggest_float("reg_param", *settings.reg_param, log=True),
            "bias_reg_param": by
            * trial.suggest_float("bias_reg_param", *settings.bias_reg_param, log=True),
        }

    def is_hopeless(self, trial: "Trial", first_rmse: float) -> bool:
        """Whether a trial is worse after its first look than most others were (the median rule of
        Golovin et al., Google Vizier, 2017)."""
        trial.report(first_rmse, step=1)
        return bool(trial.should_prune())

    def tell(self, trial: "Trial", rmse: float | None, is_pruned: bool) -> None:
        """How a trial ended."""
        from optuna.trial import TrialState

        if is_pruned:
            self._study.tell(trial, state=TrialState.PRUNED)
        elif rmse is None or not math.isfinite(rmse):
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._study.tell(trial, rmse)

    def _remember(self, past: Past) -> None:
        """A trial of an earlier session, unless it failed or lies outside of the present ranges."""
        from optuna.trial import TrialState, create_trial

        if past.first_rmse is None:
            return
        params: dict[str, str | int | float] = {"model": past.model, "rank": past.rank}
        if past.reg_exponent is not None:
            assert past.reg_param is not None
            assert past.bias_reg_param is not None
            by = self._per_row ** (0.5 - past.reg_exponent)
            params |= {
                "reg_exponent": past.reg_exponent,
                "reg_param": past.reg_param / by,
                "bias_reg_param": past.bias_reg_param / by,
            }
        ranges = self._ranges()
        try:
            trial = create_trial(
                params=params,
                distributions={name: ranges[name] for name in params},
                value=past.validation_rmse,
                state=TrialState.PRUNED if past.validation_rmse is None else TrialState.COMPLETE,
                intermediate_values={1: past.first_rmse},
            )
        except ValueError:
            return
        self._study.add_trial(trial)

    def _ranges(self) -> dict[str, "BaseDistribution"]:
        from optuna.distributions import (
            CategoricalDistribution,
            FloatDistribution,
            IntDistribution,
        )

        settings = self._settings
        return {
            "model": CategoricalDistribution(list(settings.models)),
            "rank": IntDistribution(*settings.rank, log=True),
            "reg_exponent": FloatDistribution(*settings.reg_exponent),
            "reg_param": FloatDistribution(*settings.reg_param, log=True),
            "bias_reg_param": FloatDistribution(*settings.bias_reg_param, log=True),
        }
