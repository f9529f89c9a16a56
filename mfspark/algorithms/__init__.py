"""Whole fits on arrays of one process: loops, history, start, strata, threads; no Spark."""
