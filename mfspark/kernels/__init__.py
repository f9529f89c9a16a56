"""Numerical kernels on NumPy arrays: no Spark, no I/O.

Every fast kernel has a slow readable twin in :mod:`mfspark.kernels.reference`.
"""
