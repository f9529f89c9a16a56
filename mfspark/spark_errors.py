"""The exceptions by which Spark's failures reach Python."""

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException

# Most failures arrive as PySparkException, some (an unreadable Parquet footer) as bare Java errors.
SPARK_ERRORS = (PySparkException, Py4JError)
