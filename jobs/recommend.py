"""Make top-N lists: writes recommendations/."""

from mfspark.app import cli, steps

if __name__ == "__main__":
    cli.main(steps.recommend, __doc__)
