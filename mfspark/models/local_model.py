"""A fitted model as a function: item rows in NumPy, and a user by their ratings, without Spark."""

import io
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mfspark import files
from mfspark.errors import DataError, ModelFormatError
from mfspark.kernels.arrays import Float32s, Float64s
from mfspark.kernels.influence import solution_parts

_FORMAT, _MOST_CONDITION = 1, 1e10


class Recommended(NamedTuple):
    """An item of a list, and its prediction."""

    item: Any
    rating: float


class LocalModel:
    """Predictions, lists and reasons for one user at a time, for a service.

    ``items``: ids [n] of one type, ``rows`` [q_i, b_i] float32 [n, rank + 1], ``mean`` μ,
    ``penalty`` D float64 [rank + 1, rank + 1], which a user with n ratings has n^``exponent``
    times; ``limits``: what predictions are clipped to, or None. All in the coordinates and the unit
    of the model's factors.
    """

    def __init__(
        self,
        items: Sequence[Any],
        rows: Float32s,
        mean: float,
        penalty: Float64s,
        exponent: float,
        fit_biases: bool,
        limits: tuple[float, float] | None,
    ) -> None:
        self.items = np.asarray(items)
        self.mean, self.exponent, self.limits = mean, exponent, limits
        self.fit_biases = fit_biases
        self._rows, self._penalty = rows, penalty
        self._bias = rows[:, -1].astype(np.float64)
        # A user's bias is the weight of a feature that is 1 for all items.
        self._features = rows.astype(np.float64)
        self._features[:, -1] = float(fit_biases)
        # Factors that are zero are not shrunk, and have to be told from the others.
        self._is_definite = np.linalg.cond(penalty) < _MOST_CONDITION
        self._places = {item: place for place, item in enumerate(self.items.tolist())}

    def foldIn(self, ratings: dict[Any, float]) -> Float64s:
        """[p_u, b_u], float64 [rank + 1], of a user with these ratings by item: the minimum of the
        fit's objective for them. Items that the model does not know are left out; without any
        other the row is zero, and predictions are those for the mean user."""
        places, targets, penalty = self._system(ratings)
        features = self._features[places]
        user: Float64s
        if self._is_definite:
            gram = features.T @ features + penalty
            user = np.asarray(np.linalg.solve(gram, features.T @ targets), np.float64)
        else:
            user = solution_parts(features, targets, penalty).sum(axis=0)
        return user

    def influences(self, ratings: dict[Any, float], item: Any) -> dict[Any, float]:
        """What each rating adds to the prediction for ``item``: with μ + b_i they make it up."""
        places, targets, penalty = self._system(ratings)
        parts = solution_parts(self._features[places], targets, penalty)
        added = parts @ self._features[self._place(item)]
        return dict(zip(self.items[places].tolist(), added.tolist(), strict=True))

    def predict(self, user: Float64s, items: Sequence[Any]) -> Float64s:
        """Predictions for some items, float64 [n], of a user's row. ``DataError`` for an item that
        the model does not know."""
        places = [self._place(item) for item in items]
        scores = self.mean + self._bias[places] + self._features[places] @ user
        return scores if self.limits is None else np.clip(scores, *self.limits)

    def recommend(self, user: Float64s, n: int, seen: Sequence[Any] = ()) -> list[Recommended]:
        """The ``n`` items with the highest predictions, but for those ``seen``."""
        scores = self._bias + self._features @ user
        places = [self._places[item] for item in seen if item in self._places]
        scores[places] = -np.inf
        n = max(min(n, len(scores) - len(places)), 0)
        best = np.argpartition(-scores, n)[:n] if n < len(scores) else np.arange(n)
        best = best[np.lexsort((best, -scores[best]))]
        ratings = self.mean + scores[best]
        if self.limits is not None:
            ratings = np.clip(ratings, *self.limits)
        chosen = zip(self.items[best].tolist(), ratings.tolist(), strict=True)
        return [Recommended(item, rating) for item, rating in chosen]

    def save(self, path: str) -> None:
        """Write the file ``path``: arrays of NumPy and JSON, nothing that is executed when read; it
        appears whole. ``DataError`` for ids that are neither numbers nor text."""
        if self.items.dtype == object:
            raise DataError(
                f"items are of type {type(self.items[0]).__name__}, which only a pickle could "
                "hold; fit with ids that are numbers or text"
            )
        facts = {
            "format": _FORMAT, "mean": self.mean, "exponent": self.exponent,
            "fit_biases": self.fit_biases, "limits": self.limits,
        }  # fmt: skip
        content = io.BytesIO()
        np.savez(
            content, items=self.items, rows=self._rows, penalty=self._penalty,
            facts=np.array(json.dumps(facts)),
        )  # fmt: skip
        files.write_bytes(path, content.getvalue())

    @classmethod
    def load(cls, path: str) -> "LocalModel":
        """What ``save`` wrote. ``ModelFormatError`` for anything else."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                facts = json.loads(str(arrays["facts"]))
                items, rows, penalty = (arrays[name] for name in ("items", "rows", "penalty"))
        except FileNotFoundError:
            raise ModelFormatError(f"there is no file {path}; LocalModel.save makes one") from None
        except Exception as error:
            raise ModelFormatError(
                f"{path} is not a file that LocalModel.save made ({error}); make it again"
            ) from None
        if facts.pop("format", None) != _FORMAT:
            raise ModelFormatError(f"{path} is of another version of mfspark; make it again")
        limits = facts.pop("limits")
        return cls(items, rows, penalty=penalty, limits=limits and tuple(limits), **facts)

    def _system(self, ratings: dict[Any, float]) -> tuple[list[int], Float64s, Float64s]:
        """Places of the known items, what is left of their ratings, and the user's penalty."""
        known = [item for item in ratings if item in self._places]
        places = [self._places[item] for item in known]
        targets = np.array([ratings[item] for item in known], np.float64)
        targets = targets - self.mean - self._bias[places]
        if not np.isfinite(targets).all():
            raise DataError("a rating is NaN or infinite; leave it out")
        weight: float = max(len(known), 1) ** self.exponent
        return places, targets, weight * self._penalty

    def _place(self, item: Any) -> int:
        if item not in self._places:
            raise DataError(f"item {item!r} has no row in this model; choose one of its items")
        return self._places[item]
