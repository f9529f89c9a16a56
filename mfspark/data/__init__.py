"""Ratings from files to a clean, split table.

Read in this order: ``fetch`` (datasets by name), ``read`` (one entry point for all formats),
``validate`` (a reason for every bad row), ``split``; ``synthetic`` makes ratings without any file.
"""
