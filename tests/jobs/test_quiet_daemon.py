"""Workers are silent about sockets that Spark has closed, and about nothing else."""

import pytest

from mfspark.app.quiet_daemon import print_unless_closed


@pytest.mark.parametrize(
    ("error", "is_printed"),
    [(BrokenPipeError(), False), (ConnectionResetError(), False), (ValueError("why"), True)],
)
def test_errors_but_those_of_closed_sockets_are_printed(capsys, error, is_printed):
    try:
        raise error
    except type(error):
        print_unless_closed()
    assert ("Traceback" in capsys.readouterr().err) == is_printed
