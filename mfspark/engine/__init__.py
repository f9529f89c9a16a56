"""From a ratings DataFrame to factor tables: everything that ships blocks through Spark.

Read ``fit_als`` first: it names every station of a fit in order. docs/architecture.md follows one
rating through them.
"""
