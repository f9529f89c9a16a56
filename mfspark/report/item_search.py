"""What the page's search box finds: items with their neighbours and their places on the factors."""

from typing import Any

import numpy as np
import pandas as pd

from mfspark.report.names import item_name, natural

_DIGITS = 2


def search_index(index: pd.DataFrame, factors: list[dict[str, Any]]) -> dict[str, Any] | None:
    """``items``: of each item name, number of ratings, bias, the places on ``factors`` in standard
    deviations of all items, and neighbours as numbers of items with their similarity. ``factors``:
    number and label of the factors that may be read. None without items."""
    if not len(index):
        return None
    numbers = [row["factor"] for row in factors]
    values = np.stack(index["factors"].to_list())[:, [number - 1 for number in numbers]]
    spread = values.std(axis=0)
    z = (values - values.mean(axis=0)) / np.where(spread == 0, 1, spread)
    at = {item: number for number, item in enumerate(index["item"])}
    rows = [
        [
            item_name(row.title, row.item, row.year),
            int(row.n_ratings),
            round(float(row.bias), _DIGITS),
            np.round(place, 1).tolist(),
            [
                [at[near["similar_item"]], round(float(near["similarity"]), _DIGITS)]
                for near in (row.similar if row.similar is not None else ())
                if near["similar_item"] in at
            ],
        ]
        for row, place in zip(index.itertuples(), z, strict=True)
    ]
    names = [
        natural(row["label"]) if isinstance(row["label"], str) else f"factor {row['factor']}"
        for row in factors
    ]
    return {"items": rows, "factors": names}
