"""The report: tables of a run → charts → one HTML file."""
