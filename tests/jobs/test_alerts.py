"""Each alert where its reason is there, and silence where it is not."""

import pandas as pd
import pytest

from mfspark.app.alerts import Findings, Gain, alerts_of
from mfspark.app.config import Config
from mfspark.app.findings import last_change
from mfspark.app.run_directory import IngestRecord
from mfspark.columns import Side
from mfspark.data.validate import DUPLICATE
from mfspark.models.metadata import CoordinateSystem, ModelMetadata, PenaltyFacts


def given(**hyper_parameters):
    return {"regExponent": 0.5, "fitBiases": True, "tol": 1e-4, **hyper_parameters}


def gain(name="bias only", value=0.03, low=0.01, high=0.05, n=5000):
    return Gain(name=name, n=n, rmse=0.9, baseline_rmse=0.9 + value, gain=value, low=low, high=high)


def config(**sections):
    data = {"path": "ratings.csv", **sections.pop("data", {})}
    return Config.model_validate({"data": data, "split": {"method": "temporal"}, **sections})


def metadata(**changes):
    facts = {
        "schema_version": 1, "algorithm": "BiasedALS", "rank": 8, "global_mean": 3.5,
        "rating_scale": (1.0, 5.0), "n_users": 1000, "n_items": 400, "n_ratings": 50_000,
        "n_validation": 0, "n_cold_validation": 0, "user_type": "long", "item_type": "long",
        "hyper_parameters": given(regParam="auto"),
        "rotation": CoordinateSystem(name="canonical", singular_values=[1.0] * 8),
        "best_iteration": 15, "stopped": "converged", "execution": "one_task", "exchange": {},
        "penalties": PenaltyFacts(users=1.2, items=1.2, user_bias=0.5, item_bias=0.5),
    }  # fmt: skip
    return ModelMetadata(**(facts | changes))


def ingest(**changes):
    facts = {
        "origin": "ratings.csv", "rows_read": 56_000, "rows_clean": 56_000, "users": 1000,
        "items": 400, "rows_merged": 0, "bad_rows": {},
        "split": {"train": 50_000, "validation": 0, "test": 6000}, "fingerprint": "x",
        "first_time": 1, "last_time": 2, "scale": (1.0, 5.0),
    }  # fmt: skip
    return IngestRecord(**(facts | changes))


def findings(**changes):
    """Of a run in which all is well."""
    facts = {
        "config": config(), "ingest": ingest(), "metadata": metadata(),
        "gains": [gain(), gain("item mean"), gain("global mean")],
        "slice_gains": [gain("item popularity 1–9", low=-0.01), gain("cold start warm")],
        "last_change": 5e-5, "n_matched": 400,
        "most_ratings": {Side.USER: 700, Side.ITEM: 600},
    }  # fmt: skip
    return Findings(**(facts | changes))


def test_all_is_well():
    assert alerts_of(findings()) == []
    assert alerts_of(findings(n_matched=None, last_change=None)) == []


RAN_OUT = metadata(stopped="max_iter")
CASES = {
    "worse than a baseline": {"gains": [gain(value=-0.02, low=-0.03, high=-0.01)]},
    "not clearly better than a baseline": {"gains": [gain(value=0.01, low=-0.01, high=0.03)]},
    "worse than biases in a slice": {
        "slice_gains": [gain("item popularity 1–9", value=-0.2, low=-0.3, high=-0.1)]
    },
    "few test rows": {"ingest": ingest(split={"train": 50_000, "validation": 0, "test": 999})},
    "iteration limit reached": {"metadata": RAN_OUT, "last_change": 0.002},
    "penalty at the edge": {
        "metadata": metadata(
            penalties=PenaltyFacts(users=64.0, items=64.0, user_bias=0.5, item_bias=0.5)
        )
    },
    "items without metadata": {"n_matched": 199},
    "duplicates": {"ingest": ingest(bad_rows={DUPLICATE: 3})},
    "skew": {"most_ratings": {Side.USER: 10_000, Side.ITEM: 600}},
    "split leaks time": {"config": config(split={"method": "random"})},
    "rating scale guessed": {"ingest": ingest(scale=None)},
}


@pytest.mark.parametrize("name", CASES)
def test_an_alert_for_its_reason_alone(name):
    (alert,) = alerts_of(findings(**CASES[name]))
    assert alert.name == name
    assert alert.text.endswith(".")
    assert alert.remedy.endswith(".")


@pytest.mark.parametrize(
    "changes",
    [
        # The limit was reached, but there was nothing left to learn.
        {"metadata": RAN_OUT, "last_change": 5e-4},
        # Still falling when validation said stop.
        {"metadata": metadata(stopped="validation"), "last_change": 0.01},
        # Given by hand.
        {
            "metadata": metadata(
                hyper_parameters={
                    "regParam": 64.0,
                    "regExponent": 0.5,
                    "fitBiases": True,
                    "tol": 1e-4,
                },
                penalties=PenaltyFacts(users=64.0, items=64.0, user_bias=1.0, item_bias=1.0),
            )
        },
        # Worse, but no clearer than chance; or of too few users to say.
        {"slice_gains": [gain("x", value=-0.2, low=-0.5, high=0.1)]},
        {"slice_gains": [gain("x", value=-0.2, low=None, high=None)]},
        # A random split of ratings without times leaks none that one knows of.
        {
            "config": config(split={"method": "random"}),
            "ingest": ingest(first_time=None, last_time=None),
        },
        # One of four users has a quarter of the ratings: that is fair.
        {"metadata": metadata(n_users=4), "most_ratings": {Side.USER: 15_000, Side.ITEM: 600}},
        {"ingest": ingest(bad_rows={"null rating": 3})},
        {"n_matched": 200},
    ],
)
def test_what_is_no_reason(changes):
    assert alerts_of(findings(**changes)) == []


def test_remedies_name_what_to_set():
    worse = {"gains": [gain(value=-0.02, low=-0.03, high=-0.01)]}
    given = metadata(
        hyper_parameters={"regParam": 0.01, "regExponent": 0.5, "fitBiases": True, "tol": 1e-4}
    )
    (alert,) = alerts_of(findings(metadata=given, **worse))
    assert '--set als.reg_param="auto"' in alert.remedy
    (alert,) = alerts_of(findings(**worse))
    assert "train.model=bayes" in alert.remedy
    (alert,) = alerts_of(findings(config=config(train={"model": "bayes"}), **worse))
    assert "als.rank=0" in alert.remedy
    merged = findings(ingest=ingest(rows_merged=2), config=config(data={"duplicates": "mean"}))
    assert "their mean counts" in alerts_of(merged)[0].text


def test_warnings_come_first():
    found = alerts_of(findings(n_matched=0, ingest=ingest(scale=None)))
    assert [alert.level for alert in found] == ["warning", "note"]


def test_the_last_change_of_a_fit():
    rows = {"iteration": [1, 1, 2, 2], "objective": [9.0, 8.0, 7.0, 6.0]}
    assert last_change(pd.DataFrame(rows | {"validation_rmse": [None] * 4})) == 0.25
    measured = pd.DataFrame(rows | {"validation_rmse": [None, 2.0, None, 1.9]})
    assert last_change(measured) == pytest.approx(0.05)
    assert last_change(measured[:2]) is None
