import pytest
from pyspark.sql import functions as F

from mfspark import BiasedALS
from mfspark.interpretation.agreement import factor_agreement


def test_agreement_of_factors(model, ratings):
    assert factor_agreement(model, model) == pytest.approx(1)
    # In another order and with other signs they are the same factors.
    turned = F.transform(F.reverse("factors"), lambda value: (-value).cast("float"))
    other = model.copy()
    other.item_factors = model.item_factors.withColumn("factors", turned)
    assert factor_agreement(model, other) == pytest.approx(1)
    strange = model.copy()
    random = F.array(*[F.randn(seed).cast("float") for seed in range(3)])
    strange.item_factors = model.item_factors.withColumn("factors", random)
    assert factor_agreement(model, strange) < 0.7
    alone = BiasedALS(rank=0, maxIter=2).fit(ratings)
    assert factor_agreement(alone, alone) is None
