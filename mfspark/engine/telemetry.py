"""Metrics of fits for OpenTelemetry, where its API is installed; elsewhere nothing is measured.

``mfspark.fit.iteration.duration`` (histogram, s), ``mfspark.fit.exchanged`` (counter, By: factors
sent through Spark) and ``mfspark.fit.rmse`` (gauge, unit of the ratings, by ``part``: train or
validation), each with the attribute ``fit``, the name of the estimator.
"""

from mfspark.algorithms.history import HistoryRow

try:
    from opentelemetry import metrics
except ImportError:
    IS_MEASURED = False
else:
    IS_MEASURED = True


class FitMetrics:
    """Instruments of the meter ``mfspark`` of whatever provider the process has."""

    def __init__(self, name: str) -> None:
        self._attributes = {"fit": name}
        if IS_MEASURED:
            meter = metrics.get_meter("mfspark")
            self._duration = meter.create_histogram(
                "mfspark.fit.iteration.duration", "s", "time of one iteration"
            )
            self._exchanged = meter.create_counter(
                "mfspark.fit.exchanged", "By", "factors sent through Spark"
            )
            self._rmse = meter.create_gauge(
                "mfspark.fit.rmse", description="error after an iteration"
            )

    def record(self, rows: list[HistoryRow]) -> None:
        """Measure the last iteration of a history."""
        if not IS_MEASURED:
            return
        last = rows[-1]
        passes = [row for row in rows if row.iteration == last.iteration]
        self._duration.record(sum(row.seconds for row in passes), self._attributes)
        self._exchanged.add(sum(row.bytes for row in passes), self._attributes)
        for part, value in (("train", last.train_rmse), ("validation", last.validation_rmse)):
            if value is not None:
                self._rmse.set(value, self._attributes | {"part": part})
