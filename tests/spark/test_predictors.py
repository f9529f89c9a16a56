"""What holds of every model that predicts ratings."""

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import functions as F
from pyspark.sql.types import DoubleType, FloatType

from mfspark import ALS, BayesianMF, BiasedALS, BiasedSGD, BiasOnly, GlobalMean, ItemKNN, UserKNN


def predictions(model, pairs):
    return model.transform(pairs).orderBy("user", "item").toPandas()["prediction"].to_numpy()


class PredictorContract:
    """A subclass names its estimator; ``knows_ids``: whether there is such a thing as a cold id."""

    estimator = None
    prediction_type = DoubleType()
    knows_ids = True
    # Of predictions of the same model in another plan: sums in another order, in single precision.
    rounding = 1e-6

    @pytest.fixture(scope="class")
    def fitted(self, ratings):
        return self.estimator.fit(ratings)

    @pytest.fixture(scope="class")
    def pairs(self, spark, ratings_frame):
        """Known pairs, one of them twice, and a column that is none of the model's business."""
        frame = ratings_frame[["user", "item"]].iloc[::9]
        frame = pd.concat([frame, frame.iloc[:1]]).assign(note=lambda f: f["item"].astype(str))
        return spark.createDataFrame(frame).cache()

    @pytest.fixture(scope="class")
    def expected(self, fitted, pairs):
        return predictions(fitted, pairs)

    def test_rows_and_other_columns_stay(self, fitted, pairs, expected):
        scored = fitted.transform(pairs)
        assert scored.columns == [*pairs.columns, "prediction"]
        assert scored.schema["prediction"].dataType == self.prediction_type
        found, given = (
            table.toPandas().sort_values(["user", "item"], ignore_index=True)
            for table in (scored.drop("prediction"), pairs)
        )
        pd.testing.assert_frame_equal(found, given)
        assert np.isfinite(expected).all()

    def test_order_and_partitions_do_not_matter(self, fitted, pairs, expected):
        shuffled = pairs.orderBy(F.rand(1)).repartition(3)
        np.testing.assert_allclose(predictions(fitted, shuffled), expected, atol=self.rounding)

    def test_types_of_ids_do_not_matter(self, fitted, pairs, expected):
        narrow = pairs.withColumns({name: F.col(name).cast("int") for name in ("user", "item")})
        np.testing.assert_allclose(predictions(fitted, narrow), expected, atol=self.rounding)

    def test_an_old_prediction_is_replaced(self, fitted, pairs, expected):
        once = pairs.withColumn("prediction", F.lit(99.0))
        np.testing.assert_allclose(predictions(fitted, once), expected, atol=self.rounding)
        assert fitted.transform(once).columns.count("prediction") == 1

    def test_no_rows_give_no_rows(self, fitted, pairs):
        scored = fitted.transform(pairs.limit(0))
        assert scored.columns[-1] == "prediction"
        assert scored.count() == 0

    def test_cold_ids_go_by_the_strategy(self, fitted, spark, ratings_frame):
        known = ratings_frame.iloc[0]
        rows = [(int(known["user"]), int(known["item"])), (-1, int(known["item"])), (-1, -2)]
        pairs = spark.createDataFrame(rows, "user long, item long")
        if not self.knows_ids:
            assert np.isfinite(predictions(fitted, pairs)).all()
            return
        strict = fitted.copy({fitted.getParam("coldStartStrategy"): "nan"})
        assert np.isnan(predictions(strict, pairs)).tolist() == [True, True, False]
        dropping = fitted.copy({fitted.getParam("coldStartStrategy"): "drop"})
        assert dropping.transform(pairs).count() == 1

    def test_predictions_can_be_clipped_to_the_range_of_the_ratings(
        self, spark, ratings, ratings_frame
    ):
        """Of ratings in a narrow range, which sums of biases and factors leave."""
        if not self.estimator.hasParam("clipPredictions"):
            pytest.skip("pyspark.ml has no such thing")
        low, high = ratings_frame["rating"].quantile([0.4, 0.6])
        narrow = ratings.withColumn(
            "rating", F.greatest(F.lit(low), F.least("rating", F.lit(high)))
        )
        model = self.estimator.copy({self.estimator.clipPredictions: True}).fit(narrow)
        found = predictions(model, ratings.select("user", "item"))
        assert low <= found.min() <= found.max() <= high

    def test_copies_have_params_of_their_own(self, fitted, pairs):
        copied = fitted.copy({fitted.getParam("predictionCol"): "score"})
        assert "score" in copied.transform(pairs.limit(1)).columns
        assert "prediction" in fitted.transform(pairs.limit(1)).columns

    def test_what_is_saved_comes_back(self, fitted, pairs, expected, tmp_path):
        path = str(tmp_path / "my model")
        fitted.write().save(path)
        loaded = type(fitted).load(path)
        np.testing.assert_allclose(predictions(loaded, pairs), expected, atol=self.rounding)
        values = [
            {param.name: value for param, value in model.extractParamMap().items()}
            for model in (fitted, loaded)
        ]
        assert values[0] == values[1]
        with pytest.raises(Exception, match="exist"):
            fitted.write().save(path)
        fitted.write().overwrite().save(path)


class TestBiasedALS(PredictorContract):
    estimator = BiasedALS(rank=3, maxIter=3, seed=1)


class TestBiasedSGD(PredictorContract):
    estimator = BiasedSGD(rank=3, maxIter=3, seed=1)


class TestBayesianMF(PredictorContract):
    estimator = BayesianMF(rank=3, maxIter=12, burnIn=4, seed=1)


class TestBiasOnly(PredictorContract):
    estimator = BiasOnly()


class TestGlobalMean(PredictorContract):
    estimator = GlobalMean()
    knows_ids = False


class TestItemKNN(PredictorContract):
    estimator = ItemKNN(nStored=20)


class TestUserKNN(PredictorContract):
    estimator = UserKNN(nStored=20)


class TestALS(PredictorContract):
    estimator = ALS(rank=3, maxIter=3, seed=1)
    prediction_type = FloatType()
