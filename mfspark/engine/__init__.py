"""From a ratings DataFrame to factor tables: everything that ships blocks through Spark.

Read in this order: ``als`` (the loop), ``index`` (ids → positions), ``blocks`` (ratings → blocks),
``exchange`` (fixed factors → tasks), ``half_step`` (one half-step on all blocks), ``tables``
(factors → tables with ids), ``workspace`` (what a fit pins and sets, and puts back).
"""
