"""Models that an earlier state of the code saved are read, and predict what they did.

``saved/`` holds one of each kind; it is written anew only when a schema version is raised.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from mfspark import ALSModel, FactorModel, KNNModel

SAVED = Path(__file__).parent / "saved"
EXPECTED = json.loads((SAVED / "expected.json").read_text())


@pytest.mark.parametrize(
    ("name", "kind"), [("factors", FactorModel), ("neighbours", KNNModel), ("als", ALSModel)]
)
def test_models_saved_before_predict_the_same(spark, name, kind):
    pairs = spark.createDataFrame(
        [tuple(pair) for pair in EXPECTED["pairs"]], "user long, item long"
    )
    model = kind.load(str(SAVED / name))
    found = model.transform(pairs).orderBy("user", "item").toPandas()["prediction"]
    np.testing.assert_allclose(found, EXPECTED["predictions"][name], atol=2e-6)
