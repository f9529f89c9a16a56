"""Measures of top-N lists as a table of one length of the lists."""

import pandas as pd

_USUAL_LENGTH = 10


def usual_length(ranking: pd.DataFrame) -> int:
    """Ten, or where no lists of ten were measured, the longest; 0 where none were."""
    lengths = set(ranking["k"])
    return _USUAL_LENGTH if _USUAL_LENGTH in lengths else int(max(lengths, default=0))


def list_table(ranking: pd.DataFrame, ranking_users: pd.DataFrame) -> dict[str, object]:
    """``rows`` of the measures at one k, one for each way of making lists, best NDCG first; ``k``,
    ``users``, ``relevance`` and ``candidates`` say what was measured.

    No rows where nobody of the test part has training ratings and something relevant.
    """
    if not len(ranking):
        return {"rows": []}
    k = usual_length(ranking)
    chosen = ranking[ranking["k"] == k]
    rows = [
        {"predictor": predictor} | {row["measure"]: row for row in rows.to_dict("records")}
        for predictor, rows in chosen.groupby("predictor")
        # Without any list there is no coverage.
        if "coverage" in set(rows["measure"])
    ]
    rows.sort(key=lambda row: row["NDCG"]["value"], reverse=True)
    return {
        "k": k,
        "rows": rows,
        # Of two items; and models without factors do not say how alike items are.
        "has_diversity": bool(chosen[chosen["measure"] == "diversity"]["value"].notna().any()),
        "users": ranking_users.set_index("quantity")["value"].to_dict(),
        "relevance": chosen["relevance"].iloc[0],
        "candidates": chosen["candidates"].iloc[0],
    }
