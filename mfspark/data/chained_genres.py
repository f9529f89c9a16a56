"""Three genres in a chain: what a model must infer from users it shares nothing with directly.

Some users rate romances and dramas, some dramas and science fiction, some romances alone; nobody
rates romances and science fiction. Half of the items of each genre are light, half dark, and users
differ in which they like. So what a romance tells about science fiction, it tells only by way of
the dramas.
"""

import numpy as np
import pandas as pd

from mfspark.columns import ITEM, RATING, USER

_GENRES = ("romance", "drama", "science fiction")
_GROUPS = (("romance", "drama"), ("drama", "science fiction"), ("romance",))
_MEAN, _NOISE, _SHARE_RATED = 3.5, 0.25, 0.6


def chained_genres(
    n_users: int = 120, n_items: int = 12, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Ratings to fit, and the true ones of users of romances alone for science fiction.

    Both: user long, item string ("romance 1" …), rating double. ``n_users`` of each kind,
    ``n_items`` of each genre. The truth is r = 3.5 + b_i + a_i t_u, a_i > 0 for light items (of an
    even number) and a_i < 0 for dark ones; ratings have noise on top, of standard deviation 0.25.
    """
    rng = np.random.default_rng(seed)
    names = [(genre, n) for genre in _GENRES for n in range(1, n_items + 1)]
    items = pd.DataFrame(
        {
            ITEM: [f"{genre} {n}" for genre, n in names],
            "genre": [genre for genre, _ in names],
            "bias": rng.normal(0, 0.3, len(names)),
            "loading": rng.uniform(0.7, 1.1, len(names)) * [(-1) ** n for _, n in names],
        }
    )
    users = pd.DataFrame(
        {
            USER: np.arange(1, n_users * len(_GROUPS) + 1),
            "group": np.repeat(np.arange(len(_GROUPS)), n_users),
            "taste": rng.normal(0, 0.7, n_users * len(_GROUPS)),
        }
    )
    pairs = users.merge(items, how="cross")
    pairs[RATING] = _MEAN + pairs["bias"] + pairs["loading"] * pairs["taste"]
    in_group = [
        genre in _GROUPS[g] for genre, g in zip(pairs["genre"], pairs["group"], strict=True)
    ]
    is_rated = np.array(in_group) & (rng.random(len(pairs)) < _SHARE_RATED)
    ratings = pairs[is_rated].assign(
        rating=lambda rows: rows[RATING] + rng.normal(0, _NOISE, len(rows))
    )
    asked = pairs[(pairs["group"] == 2) & (pairs["genre"] == "science fiction")]
    columns = [USER, ITEM, RATING]
    return ratings[columns].reset_index(drop=True), asked[columns].reset_index(drop=True)
