"""A fitted model as a function: item rows in NumPy, and a user by their ratings, without Spark."""

import io
import math
import zipfile
from collections.abc import Sequence
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from mfspark import files
from mfspark.errors import DataError, ModelFormatError
from mfspark.kernels.arrays import Float32s, Float64s
from mfspark.kernels.influence import solution_parts

_MOST_CONDITION = 1e10
_ARRAYS, _FACTS = ("items", "rows", "penalty"), "facts"
# Of the header of an array, and of the text of the facts.
_MOST_HEADER = 2**16


class Recommended(NamedTuple):
    """An item of a list, and its prediction."""

    item: Any
    rating: float


class LocalFacts(BaseModel):
    """What a file of a ``LocalModel`` holds beside arrays; ``format`` tells its version."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    format: Literal[1] = 1
    mean: float
    exponent: float
    fit_biases: bool
    limits: tuple[float, float] | None


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
        facts = LocalFacts(
            mean=self.mean, exponent=self.exponent, fit_biases=self.fit_biases, limits=self.limits
        )
        content = io.BytesIO()
        np.savez(
            content,
            items=self.items,
            rows=np.ascontiguousarray(self._rows),
            penalty=np.ascontiguousarray(self._penalty),
            facts=np.array(facts.model_dump_json()),
        )
        files.write_bytes(path, content.getvalue())

    @classmethod
    def load(cls, path: str) -> "LocalModel":
        """What ``save`` wrote. ``ModelFormatError`` for anything else: nothing of the file is
        executed, nor does it take more memory than it is long."""
        try:
            with zipfile.ZipFile(path) as archive:
                arrays = {name: _stored_array(archive, name) for name in (*_ARRAYS, _FACTS)}
            facts = LocalFacts.model_validate_json(str(arrays.pop(_FACTS)))
            _check(**arrays)
        except FileNotFoundError:
            raise ModelFormatError(f"there is no file {path}; LocalModel.save makes one") from None
        # Parsers of archives, headers and JSON have errors of many kinds.
        except Exception as error:
            told = (str(error).splitlines() or [type(error).__name__])[0]
            raise ModelFormatError(
                f"{path} is not a file that LocalModel.save of this version made ({told}); make it "
                "again"
            ) from None
        return cls(**arrays, **facts.model_dump(exclude={"format"}))

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


def _stored_array(archive: zipfile.ZipFile, name: str) -> Any:
    """An array of an .npz file; ``ValueError`` where its header and its length do not agree, or
    where it is compressed, which could make a small file fill the memory."""
    entry = archive.getinfo(f"{name}.npy")
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > entry.compress_size:
        raise ValueError(f"{name} is compressed")
    with archive.open(entry) as stream:
        shape, dtype = _header(stream)
        n_bytes = entry.file_size - stream.tell()
        if dtype.hasobject or any(n < 0 for n in shape):
            raise ValueError(f"{name} has no numbers and no text")
        if math.prod(shape) * dtype.itemsize != n_bytes:
            raise ValueError(f"{name} is not as long as its header says")
        found = np.frombuffer(stream.read(), dtype).reshape(shape)
    return found


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an array in C order."""
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError("an array is of another format than the one that is written")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream, _MOST_HEADER)
    if is_fortran:
        raise ValueError("an array is not in the order in which it is written")
    return shape, dtype


def _check(items: Any, rows: Any, penalty: Any) -> None:
    """``ValueError`` where arrays do not make up a model."""
    are_shaped = (
        items.ndim == 1
        and items.dtype.kind in "iufU"
        and rows.ndim == 2
        and len(rows) == len(items)
        and penalty.shape == (rows.shape[1], rows.shape[1])
    )
    if not are_shaped or rows.dtype != np.float32 or penalty.dtype != np.float64:
        raise ValueError("its arrays do not fit each other")
    if not (np.isfinite(rows).all() and np.isfinite(penalty).all()):
        raise ValueError("it has numbers that are NaN or infinite")
    if len(set(items.tolist())) < len(items):
        raise ValueError("an item occurs twice")
