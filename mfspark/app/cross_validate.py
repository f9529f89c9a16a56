"""k-fold cross-validation of the configured model."""

import logging

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from mfspark import files
from mfspark.app.configured_columns import features_of, refuse_unused_features
from mfspark.app.estimators import make_estimator
from mfspark.app.ingest import checked_ratings
from mfspark.app.run_directory import RunDirectory
from mfspark.columns import RATING, USER
from mfspark.data.split import fold
from mfspark.evaluation.ratings import MODEL, rating_metrics
from mfspark.small_tables import table_of

logger = logging.getLogger("mfspark")


def cross_validate(spark: SparkSession, run: RunDirectory) -> None:
    """k-fold cross-validation of the configured model: cross_validation/ (fold, rmse, mae, n).

    Folds are a hash of seed, user and item. Nothing of a test fold is used to train or to stop: the
    fit runs for ``max_iter`` iterations or until the training objective has converged.
    """
    settings = run.config.cross_validation
    with run.step("cross_validate", "cross_validation") as facts:
        rows = []
        refuse_unused_features(run.config.train)
        with checked_ratings(spark, run) as (checked, known, origin):
            trained = run.config.trained
            features = features_of(run.config.train, known, checked.clean)
            predicted = F.col(trained.prediction_col)
            folded = checked.clean.withColumn("fold", fold(settings.seed, settings.folds))
            for number in range(settings.folds):
                estimator = make_estimator(run.config.train.model, trained, features=features)
                model = estimator.fit(folded.where(F.col("fold") != number))
                scored = model.transform(folded.where(F.col("fold") == number)).select(
                    USER, RATING, F.lit("all").alias("slice"), F.lit("all").alias("value"),
                    F.lit(MODEL).alias("predictor"), predicted.alias("predicted"),
                )  # fmt: skip
                row = rating_metrics(scored).first()
                assert row is not None
                rows.append((number, row["rmse"], row["mae"], row["n"], row["n_unscored"]))
                logger.info("fold %d of %d: RMSE %.4f", number + 1, settings.folds, row["rmse"])
        schema = "fold int, rmse double, mae double, n long, n_unscored long"
        with run.output("cross_validation") as target:
            files.write_parquet(table_of(spark, rows, schema).coalesce(1), target)
        mean = sum(row[1] for row in rows) / len(rows)
        facts["mean_rmse"] = mean
    print(f"\n{settings.folds}-fold cross-validation on {origin}, seed {settings.seed}:")
    print("  RMSE by fold " + " ".join(f"{row[1]:.4f}" for row in rows))
    print(f"  mean RMSE    {mean:.4f}")
