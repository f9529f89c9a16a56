"""From ratings to rating blocks of both sides, in one pass over the rows.

Each task packs its rows into a chunk per block and side; the chunks, not the rows, are shuffled
to the partition of their block and assembled there, into a file of the node.

Worked example. Five users and four items by position; users in two blocks of three and two rows:

                 item 0   item 1   item 2   item 3
    user 0         5                 3               block 0, row 0
    user 1         4                                 block 0, row 1
    user 2                           1               block 0, row 2
    user 3                  2                        block 1, row 0
    user 4                  4                 5      block 1, row 1

>>> layout = Layout(sizes=np.array([3, 2, 0]), shares=())  # no user is hot
>>> users, items = np.array([0, 0, 1, 2, 3, 4, 4]), np.array([0, 2, 0, 2, 1, 1, 3])
>>> block, row, of_rating = layout.locate(np.arange(5, dtype=np.int32), users, items)
>>> block.tolist(), row.tolist(), of_rating.tolist()
([0, 0, 0, 1, 1], [0, 1, 2, 0, 1], [0, 0, 1, 2, 3, 4, 4])

A chunk of block 1 holds training or validation ratings in the order of their rows, each column as
one binary value: rows in the block, how many ratings each of them has, and of these the positions
on the other side and the ratings.

>>> columns = {"rows": np.array([0, 1], np.uint8), "counts": np.array([1, 2], np.uint8),
...            "others": np.array([1, 1, 3], np.uint8), "rating": np.array([2, 4, 5], np.float32)}
>>> chunk = pa.table({"block": [1], "is_validation": [False], "palette": [b""]}
...                  | {name: [part.tobytes()] for name, part in columns.items()})

The file of block 1 holds the positions of the items that it needs, and its ratings as a CSR whose
columns are places among these: what it is sent in each half-step are the rows of items 1 and 3.

>>> needed, indptr, places, ratings, *validation = RatingBlockFormat().arrays(chunk, layout, 4)
>>> needed.tolist(), indptr.tolist(), places.tolist(), ratings.tolist()
([1, 3], [0, 1, 3], [0, 0, 1], [2.0, 4.0, 5.0])
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.columns import IS_VALIDATION, Side
from mfspark.engine.block_files import (
    CHUNK_COLUMNS,
    Arrays,
    BlockFiles,
    FiledBlocks,
    delete_at_exit,
    file_blocks,
    unique_name,
)
from mfspark.engine.cells import (
    ChangedRatingsError,
    NarrowRatings,
    cell,
    cells_of,
    from_cell,
    index_type,
    narrow_integers,
    values,
)
from mfspark.engine.encoded import (
    IDS_OF_PACK,
    SLICE_COLUMNS,
    EncodedRatings,
    validation_in_row,
)
from mfspark.engine.index import Layout, Part, Placement, SideIndex
from mfspark.engine.plan import CLOSURE_BYTES
from mfspark.engine.workspace import Workspace
from mfspark.kernels.arrays import Int32s
from mfspark.kernels.csr import Csr, RatingBlock, RowRuns, compact, group_by_row, join_runs

_CHUNK_SCHEMA = (
    "block int, is_validation boolean, rows binary, counts binary, others binary, rating binary, "
    "palette binary"
)


@dataclass(frozen=True)
class RatingBlockFormat:
    """The positions of the rows of the other side that the block needs, int32; the CSR of its
    training ratings and that of its validation ratings, whose columns are places among these."""

    dtypes: ClassVar[tuple[type, ...]] = (np.int32, *2 * (np.int64, np.int32, np.float32))
    about_schema: ClassVar[str] = (
        "needed: binary, n_needed: bigint, n_ratings: bigint, n_validation: bigint"
    )

    def arrays(self, chunks: pa.Table, layout: Layout, n_fixed: int) -> Arrays:
        """See ``BlockFormat``."""
        runs = _runs(chunks, layout, n_fixed)
        needed, places = compact([run.columns for run in runs], n_fixed)
        runs = [run._replace(columns=places[run.columns]) for run in runs]
        block = _assemble(chunks, layout, runs, len(needed))
        return [needed, *block.train, *block.validation]

    def counts(self, arrays: Arrays) -> dict[str, int]:
        """See ``BlockFormat``."""
        needed, _, _, ratings, _, _, validation, *_ = arrays
        return {
            "n_needed": len(needed),
            "n_ratings": len(ratings),
            "n_validation": len(validation),
        }

    def about(self, arrays: Arrays) -> dict[str, int | bytes]:
        """See ``BlockFormat``."""
        return {"needed": arrays[0].tobytes(), **self.counts(arrays)}


@dataclass(frozen=True)
class BlockedSide:
    """The rating blocks of one solved side.

    Of each block ``blocks.places`` says in ``about.needed`` (int32) the positions of the fixed rows
    that it refers to.
    """

    blocks: FiledBlocks

    @property
    def n_needed(self) -> int:
        """The sum over blocks of the fixed rows that each needs."""
        return self.blocks.totals["n_needed"]

    @property
    def n_validation(self) -> int:
        """Validation ratings of users and items that have training ratings."""
        return self.blocks.totals["n_validation"]

    @property
    def layout(self) -> Layout:
        """Where the rows of the side are."""
        return self.blocks.files.layout


def build_blocks(
    workspace: Workspace,
    encoded: EncodedRatings,
    indices: dict[Side, SideIndex],
    formats: dict[Side, RatingBlockFormat],
) -> dict[Side, BlockedSide]:
    """User-major and item-major blocks of ``encoded`` ratings, or those of one side alone, in their
    ``formats``.

    Validation ratings whose user or item has no training rating belong to no block.
    """
    layouts = {side: index.layout for side, index in indices.items()}
    located = locate_ratings(workspace, encoded, indices)
    name = unique_name()
    n_blocks = max(layout.n_blocks for layout in layouts.values())
    delete_at_exit(workspace, name, n_blocks)

    def build(side: Side) -> BlockedSide:
        n_fixed = layouts[side.other].n_rows
        files = BlockFiles(name, side, formats[side], layouts[side], n_fixed)
        chunks = located.chunks(side)
        return BlockedSide(file_blocks(workspace, chunks, files, indices[side].n_ratings))

    # One side after the other: where a block is made it stays, and tasks that have all cores to
    # themselves are spread over all executors.
    blocked = {side: build(side) for side in formats}
    located.release(workspace)
    return blocked


@dataclass(frozen=True)
class LocatedRatings:
    """Packs of ratings with the positions of the ids in their dictionaries.

    ``positions``: target int, pack long, found array<struct<part int, positions binary>>,
    persisted; or ``ids`` by position, where packs look theirs up.
    """

    encoded: EncodedRatings
    placements: dict[Side, Placement]
    positions: DataFrame | None = None
    ids: dict[Side, pa.Array] | None = None

    def chunks(self, side: Side) -> DataFrame:
        """The chunks of the blocks of a side, where they are packed."""
        slices = self.encoded.slices
        if self.positions is None:
            located = slices.select(*SLICE_COLUMNS, *IDS_OF_PACK.values())
        else:
            found = self.positions.hint("shuffle_hash")
            located = slices.join(found, ["target", "pack"], "left").select(*SLICE_COLUMNS, "found")
        pack = partial(_pack_chunks, placements=self.placements, ids=self.ids, side=side)
        return located.mapInArrow(pack, _CHUNK_SCHEMA)

    def release(self, workspace: Workspace) -> None:
        """Let go of what no later step reads."""
        if self.positions is not None:
            workspace.release(self.positions)
        workspace.release(self.encoded.persisted)


def locate_ratings(
    workspace: Workspace, encoded: EncodedRatings, indices: dict[Side, SideIndex]
) -> LocatedRatings:
    """Send every pack the positions of the ids in its dictionaries, or all ids with the code."""
    placements = {side: index.placement for side, index in indices.items()}
    ids = _few_ids(indices) if encoded.has_ids else None
    if ids is not None:
        return LocatedRatings(encoded, placements, ids=ids)
    found = encoded.dictionaries.mapInArrow(
        partial(_find_positions, placements=placements), "pack long, part int, positions binary"
    ).withColumn("target", encoded.target_of(F.col("pack")))
    positions = (
        found.repartitionById(encoded.n_targets, F.col("target"))
        .groupBy("target", "pack")
        .agg(F.collect_list(F.struct("part", "positions")).alias("found"))
    )
    return LocatedRatings(encoded, placements, workspace.persist(positions, made_of="files"))


def _few_ids(indices: dict[Side, SideIndex]) -> dict[Side, pa.Array] | None:
    """The ids of all sides by position; None of such as are not on the driver, or too long."""
    ids = {}
    for side, index in indices.items():
        if index.on_driver is None:
            return None
        ids[side] = index.on_driver["id"].combine_chunks()
    return ids if sum(of_side.nbytes for of_side in ids.values()) <= CLOSURE_BYTES else None


def _find_positions(
    batches: Iterator[pa.RecordBatch], placements: dict[Side, Placement]
) -> Iterator[pa.RecordBatch]:
    """The positions of the ids of each pack in one part of its dictionary, −1 where an id has no
    training rating."""
    part = Part.of(batches)
    if part is None:
        return
    (placed,) = (each for each in placements.values() if part.number in each.hashing.parts)
    block, row = placed.place(part.number, part.ids, part.n_ratings)
    positions = (placed.layout.offsets[block] + row).astype(np.int32)
    positions[part.n_ratings == 0] = -1
    for pack, codes in part.packs:
        yield pa.RecordBatch.from_pydict(
            {
                "pack": [pack],
                "part": pa.array([part.number], pa.int32()),
                "positions": [positions[codes].tobytes()],
            }
        )


def _pack_chunks(
    batches: Iterator[pa.RecordBatch],
    placements: dict[Side, Placement],
    ids: dict[Side, pa.Array] | None,
    side: Side,
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for row in range(batch.num_rows):
            ratings = batch.slice(row, 1)
            if ids is None:
                dictionaries = _dictionaries(ratings["found"], placements)
            else:
                dictionaries = _looked_up(ratings, ids)
            yield from _chunks(ratings, dictionaries, placements, side)


def _chunks(
    ratings: pa.RecordBatch,
    dictionaries: dict[Side, Int32s],
    placements: dict[Side, Placement],
    side: Side,
) -> Iterator[pa.RecordBatch]:
    """The chunks of one slice of a pack: rows for each block that occurs in it."""
    if sum(map(len, dictionaries.values())) != ratings["n_ids"][0].as_py():
        raise ChangedRatingsError("a pack was made again of other ratings than its dictionary")
    own, other = dictionaries[side], dictionaries[side.other]
    codes = cell(ratings, side, 0, index_type(len(own)))
    others = other[cell(ratings, side.other, 0, index_type(len(other)))]
    narrow = NarrowRatings.in_row(ratings)
    rating, validation = narrow.rating.copy(), validation_in_row(ratings, len(narrow.rating))
    if any(positions.min(initial=0) < 0 for positions in dictionaries.values()):
        is_warm = (own[codes] >= 0) & (others >= 0)
        codes, others, rating = codes[is_warm], others[is_warm], rating[is_warm]
        validation = None if validation is None else validation[is_warm]
    layout = placements[side].layout
    block, row, of_rating = layout.locate(own, codes, others)
    n_fixed = placements[side.other].layout.n_rows
    chosen: dict[bool, Any] = {False: slice(None)}
    if validation is not None:
        chosen = {False: ~validation, True: validation}
    for is_validation, some in chosen.items():
        indptr, columns, rated = group_by_row(of_rating[some], others[some], rating[some], len(row))
        counts = np.diff(indptr)
        occurs = np.flatnonzero(counts)
        if not len(occurs):
            continue
        of_row = block[occurs]
        first = np.flatnonzero(np.diff(of_row, prepend=-1))
        starts = indptr[occurs[first]]
        yield pa.RecordBatch.from_arrays(
            [
                pa.array(of_row[first]),
                pa.repeat(is_validation, len(first)),
                cells_of(row[occurs].astype(_row_type(layout)), first),
                cells_of(counts[occurs].astype(index_type(int(counts.max()) + 1)), first),
                cells_of(columns.astype(index_type(n_fixed)), starts),
                cells_of(rated, starts),
                pa.repeat(pa.scalar(narrow.palette.tobytes(), pa.binary()), len(first)),
            ],
            names=list(CHUNK_COLUMNS),
        )


def _dictionaries(found: pa.Array, placements: dict[Side, Placement]) -> dict[Side, Int32s]:
    """By side the position of each id of a pack's dictionary, from its parts."""
    if found.null_count:
        raise ChangedRatingsError("the positions of the ids of a pack are missing")
    rows = found.flatten()
    parts = dict(zip(rows.field("part").to_pylist(), values(rows.field("positions")), strict=True))
    return {
        side: np.concatenate(
            [
                np.zeros(0, np.int32),
                *[np.frombuffer(parts[n], np.int32) for n in each.hashing.parts if n in parts],
            ]
        )
        for side, each in placements.items()
    }


def _looked_up(ratings: pa.RecordBatch, ids: dict[Side, pa.Array]) -> dict[Side, Int32s]:
    """As ``_dictionaries``, of a pack that has its ids with it."""
    found = {}
    for side, of_side in ids.items():
        own = from_cell(values(ratings[IDS_OF_PACK[side]])[0])["id"].combine_chunks()
        found[side] = pc.index_in(own, value_set=of_side).fill_null(-1).to_numpy()
    return found


def assemble_whole(chunks: pa.Table, layout: Layout, n_fixed: int) -> RatingBlock:
    """The block that all its chunks make; its columns are positions on the other side."""
    runs = [
        run._replace(columns=run.columns.astype(np.int32)) for run in _runs(chunks, layout, n_fixed)
    ]
    return _assemble(chunks, layout, runs, n_fixed)


def _runs(chunks: pa.Table, layout: Layout, n_fixed: int) -> list[RowRuns]:
    """What each of the chunks holds; the columns are positions on the other side, as narrow as in
    the chunk."""
    found = []
    for chunk in chunks.to_batches(max_chunksize=1):
        rows = cell(chunk, "rows", 0, _row_type(layout))
        (counts,) = values(chunk["counts"])
        found.append(
            RowRuns(
                rows=rows.astype(np.int32),
                counts=narrow_integers(counts, len(rows)).astype(np.int32),
                columns=cell(chunk, "others", 0, index_type(n_fixed)),
                values=NarrowRatings.in_row(chunk).values,
            )
        )
    return found


def _row_type(layout: Layout) -> type:
    """Of rows in a block, those of shares of hot ids included."""
    return index_type(int(layout.sizes.max(initial=0)) + layout.n_hot)


def _assemble(chunks: pa.Table, layout: Layout, runs: list[RowRuns], n_columns: int) -> RatingBlock:
    n_rows = int(layout.sizes[chunks["block"][0].as_py()]) + layout.n_hot
    is_validation = chunks[IS_VALIDATION].to_pylist()
    train, validation = (
        join_runs(
            [run for run, its in zip(runs, is_validation, strict=True) if its is wanted],
            n_rows,
            n_columns,
        )
        for wanted in (False, True)
    )
    return RatingBlock(train, validation)


def open_block(files: BlockFiles, block: int) -> tuple[RatingBlock, Int32s] | None:
    """The block in a file of this node, memory-mapped, with the positions of the fixed rows that
    it needs; None where there is no such file."""
    arrays = files.open(block)
    if arrays is None:
        return None
    return RatingBlock(Csr(*arrays[1:4]), Csr(*arrays[4:7])), arrays[0]
