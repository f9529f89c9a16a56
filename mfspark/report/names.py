"""How items are called on a page."""

import re
from typing import Any

import pandas as pd


def item_name(title: Any, item: Any, year: Any = None) -> str:
    """Title and year where they are known, else the id."""
    name = natural(title) if isinstance(title, str) else f"item {item}"
    return f"{name} ({int(year)})" if year is not None and not pd.isna(year) else name


def natural(title: str) -> str:
    """The English Patient, where catalogues have English Patient, The."""
    found = re.fullmatch(r"(.+), (The|A|An|Les?|La|L'|Il|El|Los|Las|Der|Die|Das)", title)
    if found is None:
        return title
    return f"{found[2]}{'' if found[2].endswith(chr(39)) else ' '}{found[1]}"
