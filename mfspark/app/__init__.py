"""Jobs: command line, Spark session, the directory of a run, and its steps."""
