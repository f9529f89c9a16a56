"""Item vectors in stores that find the largest inner products, each embedded: a file, no server."""

from importlib import import_module
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from mfspark.columns import ITEM
from mfspark.errors import ConfigError
from mfspark.kernels.arrays import Float32s

Store = Literal["faiss", "milvus"]
_PACKAGES = {"faiss": ("faiss",), "milvus": ("pymilvus", "milvus_lite")}
# Rows of a message to Milvus, and the longest id that it takes.
_ROWS_PER_INSERT, _MOST_BYTES = 10_000, 65_535


def require_packages(stores: list[Store]) -> None:
    """``ConfigError`` where a store cannot be written for want of a package."""
    for store in stores:
        for name in _PACKAGES[store]:
            _package(name, store)


def write_store(store: Store, items: pa.Table, folder: str) -> None:
    """Write ``items`` (item, vector list<float>) to ``folder``, a local one.

    faiss: ``items.faiss``, an exact index of inner products; the number of a vector is its row in
    ``items``. milvus: ``milvus.db`` with the collection ``items``, whose primary key is the item
    (to be loaded before it is searched, as always when a file is opened).
    """
    vectors = np.stack(items["vector"].to_numpy(zero_copy_only=False)).astype(np.float32)
    {"faiss": _write_faiss, "milvus": _write_milvus}[store](items, vectors, folder)


def _package(name: str, store: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"export.stores names {store}, but {name} cannot be imported ({error}); install "
            "mfspark[vectors]"
        ) from None


def _write_faiss(items: pa.Table, vectors: Float32s, folder: str) -> None:
    faiss = _package("faiss", "faiss")
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    faiss.write_index(index, f"{folder}/items.faiss")


def _write_milvus(items: pa.Table, vectors: Float32s, folder: str) -> None:
    """Numbers stay numbers; other ids are text there."""
    is_number = pa.types.is_integer(items[ITEM].type)
    ids = items[ITEM] if is_number else items[ITEM].cast(pa.string())
    path = f"{folder}/milvus.db"
    client = _package("pymilvus", "milvus").MilvusClient(path)
    try:
        client.create_collection(
            "items",
            dimension=vectors.shape[1],
            primary_field_name=ITEM,
            id_type="int" if is_number else "string",
            max_length=_MOST_BYTES,
            vector_field_name="vector",
            metric_type="IP",
            auto_id=False,
        )
        for first in range(0, len(vectors), _ROWS_PER_INSERT):
            part = slice(first, first + _ROWS_PER_INSERT)
            client.insert(
                "items",
                [
                    {ITEM: item, "vector": vector}
                    for item, vector in zip(ids[part].to_pylist(), vectors[part], strict=True)
                ],
            )
        client.flush("items")
    finally:
        client.close()
        # The file stays locked by its server otherwise, in a place that it is about to leave.
        _package("milvus_lite.server_manager", "milvus").server_manager_instance.release_server(
            path
        )
