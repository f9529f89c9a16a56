"""The templates, and how they write numbers."""

from jinja2 import Environment, PackageLoader, StrictUndefined

from mfspark.report.drawing import as_image


def make_environment() -> Environment:
    """All text from the data is escaped; a name that a template lacks is an error."""
    environment = Environment(
        loader=PackageLoader("mfspark.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["as_image"] = as_image
    environment.filters["number"] = _number
    environment.filters["signed"] = _signed
    return environment


def _number(value: float, digits: int = 0) -> str:
    """Thousands apart by thin spaces."""
    return f"{value:,.{digits}f}".replace(",", "\u2009")


def _signed(value: float, digits: int = 2) -> str:
    """Decimals with a sign, the minus as long as the plus is wide."""
    return f"{value:+.{digits}f}".replace("-", "\u2212")
