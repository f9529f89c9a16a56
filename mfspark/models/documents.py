"""The JSON document of a model directory: versioned, and refused with a reason if not whole."""

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from mfspark import files
from mfspark.errors import ModelFormatError

DocumentT = TypeVar("DocumentT", bound=BaseModel)


def read_document(
    path: str, name: str, model: type[DocumentT], version: int, written_by: str
) -> DocumentT:
    """The checked content of the document ``name`` in the directory ``path``.

    Raises ``ModelFormatError`` when it is missing, damaged, or of another ``schema_version`` than
    ``version``; ``written_by`` says what would have written it.
    """
    content = _read(path, name, written_by)
    found = content.get("schema_version") if isinstance(content, dict) else None
    if found != version:
        author = content.get("mfspark_version", "unknown") if isinstance(content, dict) else "?"
        raise ModelFormatError(
            f"{path} has model schema version {found}, but this mfspark reads version {version}; "
            f"train the model again or install the mfspark that wrote it ({author})"
        )
    try:
        return model.model_validate(content)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ModelFormatError(
            f"{path}/{name} is damaged at {where!r}; restore it from a copy or train again"
        ) from None


def _read(path: str, name: str, written_by: str) -> Any:
    try:
        return json.loads(files.read_text(f"{path}/{name}"))
    except FileNotFoundError:
        raise ModelFormatError(
            f"{path} is not a model directory: it has no {name}; give the directory that "
            f"{written_by} wrote"
        ) from None
    except OSError as error:
        raise ModelFormatError(
            f"{path} cannot be read as a model directory ({error.strerror or error}); give the "
            f"directory that {written_by} wrote"
        ) from None
    except ValueError as error:
        raise ModelFormatError(
            f"{path}/{name} is damaged ({error}); restore it from a copy or train again"
        ) from None
