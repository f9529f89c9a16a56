"""Vectors whose inner products rank as the model does, for vector stores: writes vectors/."""

from mfspark.app import cli
from mfspark.app.export import export

if __name__ == "__main__":
    cli.main(export, __doc__)
