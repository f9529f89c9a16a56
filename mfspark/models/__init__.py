"""Estimators and the model they return, by the conventions of ``pyspark.ml``."""
