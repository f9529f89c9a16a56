"""Yesterday's run and today's ratings: ratings/, users/, items/, model/, update/."""

from mfspark.app import cli
from mfspark.app.update import update

if __name__ == "__main__":
    cli.main(update, __doc__)
