"""One split of the questions into train, validation and test, and the inspector's own inside train.

A question goes where the hash of its cluster sends it. The cluster is the group of its near-duplicates, named after the
smallest content hash among them: none of them lies on the other side, and neither order nor shard decides anything.
When data are added, a newcomer could rename a cluster. So the questions of a table that was split before keep the names
they have there, newcomers join them, and a newcomer near to two splits is dropped.

The inspector is trained on pairs of the aligner's training part alone; else its training would have seen the questions
that the aligner is tested on (paper 000, app. C). Identity triples have one text for both labels: not for inspectors.

Shapes: N rows, D dimensions of an embedding.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from schemas.errors import UsageError
from schemas.tables import SPLITS
from transforms.curation.decisions import to_decisions
from transforms.curation.duplicates import BandKeys, ComparedColumns, GroupCandidates
from transforms.engines.embedder import open_embedder
from transforms.tables.chunks import HASHED_ROWS, Keyed
from transforms.tables.columns import check_texts, with_columns
from transforms.tables.read import ReadTable
from transforms.tables.table import Table
from transforms.texts.near_duplicates import Similarity, near_duplicate_groups
from transforms.texts.shingles import Shingles, scramble
from transforms.texts.words import byte_hashes, words_of


@dataclass(frozen=True)
class AlikePairs:
    """Pairs of response and correction that are too alike to tell an inspector apart.

    `max_similarity` is a cosine of their embeddings by the encoder in the folder `embedder`.
    """

    embedder: str
    max_similarity: float

    def __call__(self, batch: pa.RecordBatch) -> np.ndarray:
        """Return which pairs reach the similarity: bool[N]."""
        embed = open_embedder(self.embedder).embed
        responses_ND, corrections_ND = (embed(batch.column(name).to_pylist()) for name in ("response", "correction"))
        return (responses_ND * corrections_ND).sum(axis=1) >= self.max_similarity


@dataclass(frozen=True)
class Shares:
    """The shares of train, validation and test, of the inspector's own inside train, and the seed of the draw."""

    split: tuple[float, float, float]
    inspector_split: tuple[float, float, float]
    seed: int

    def draw(self, clusters: pa.Array, step: str) -> pa.Array:
        """Return the splits that the clusters' hashes send them to; `step` is `split` or `inspector_split`."""
        # shares (0.7, 0.15, 0.15) → borders [0.7, 0.85]; points [0.2, 0.7, 0.9] → [0, 1, 2], train, validation, test
        salt = np.uint64(xxhash.xxh3_64_intdigest(f"{step} {self.seed}".encode()))
        points = scramble(byte_hashes(clusters) ^ salt) / 2.0**64
        borders = np.cumsum(getattr(self, step))[:-1]
        return pa.array(SPLITS).take(pa.array(np.searchsorted(borders, points, side="right")))


@dataclass(frozen=True)
class SplitBefore:
    """The clusters of a table that was split before, by question: 64 bytes a row in every process that asks."""

    table: Table

    def check(self, shares: Shares) -> None:
        """Raise UsageError where the clusters are not alignbeam's, or these shares would split them otherwise."""
        check_texts(self.table.path, self.table.schema, ["question", "cluster", "split", "inspector_split"])
        for batch in self.table.batches(["cluster", "split", "inspector_split"], HASHED_ROWS):
            clusters = batch.column("cluster")
            if not pc.all(pc.fill_null(pc.match_substring_regex(clusters, "^[0-9a-f]{32}$"), False)).as_py():
                raise UsageError(
                    f"{self.table.path}: its clusters are not those of `alignbeam curate`; name a curated table"
                )
            for step in ("split", "inspector_split"):
                same = pc.equal(batch.column(step), shares.draw(clusters, step))  # null outside the inspector's part
                if not pc.all(pc.fill_null(same, True)).as_py():
                    raise UsageError(
                        f"{self.table.path}: was split with other shares or another seed (column {step!r}); "
                        "give the same ones, or its splits would change"
                    )

    def clusters(self, keys: pa.Array) -> pa.Array:
        """Return the cluster of each of these question keys, null where the table lacks the question."""
        # names [a, c] of clusters [x, y], wanted [c, b, d] → nearest [1, 1, 1], the last one for d → [y, null, null]
        names, clusters = _clusters_of(self.table)
        if not len(names):
            return pa.nulls(len(keys), pa.string())
        wanted = _fixed(keys)
        nearest = np.minimum(np.searchsorted(names, wanted), len(names) - 1)
        return pa.array(clusters[nearest].astype(str), pa.string(), mask=names[nearest] != wanted)


@cache
def _clusters_of(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Return the keys of a table's questions, ascending, and their clusters: two of S32[N]."""
    keys, clusters = [], []
    for batch in table.batches(["question", "cluster"], HASHED_ROWS):
        keys.append(_fixed(question_keys(batch)))
        clusters.append(_fixed(batch.column("cluster")))
    names, first = np.unique(np.concatenate([np.empty(0, "S32"), *keys]), return_index=True)
    return names, np.concatenate([np.empty(0, "S32"), *clusters])[first]


def _fixed(names: pa.Array) -> np.ndarray:
    return np.array(names.to_pylist(), "S32")


def assign_splits(
    batch: pa.RecordBatch, shares: Shares, before: SplitBefore | None = None, alike: AlikePairs | None = None
) -> pa.RecordBatch:
    """Add `split` and `inspector_split`, and fill `cluster` where a question is alone in its cluster."""
    # rows [0, 1, 2, 3] in [train, train, test, train], of which 1 is an identity triple and 3 too alike
    # → is_for_inspector [yes, yes, no, yes], then [yes, no, no, yes], then [yes, no, no, no]
    keys = question_keys(batch)
    earlier = before.clusters(keys) if before else pa.nulls(len(keys), pa.string())
    clusters = pc.coalesce(batch.column("cluster"), earlier, keys)
    splits = shares.draw(clusters, "split")
    is_for_inspector = pc.equal(splits, SPLITS[0]).to_numpy(zero_copy_only=False)
    if "identity" in batch.schema.names:
        is_for_inspector &= ~np.asarray(pc.fill_null(batch.column("identity"), False), np.bool_)
    if alike is not None and is_for_inspector.any():
        is_for_inspector[is_for_inspector] = ~alike(batch.filter(pa.array(is_for_inspector)))
    inner = pc.if_else(pa.array(is_for_inspector), shares.draw(clusters, "inspector_split"), None)
    return with_columns(batch, cluster=clusters, split=splits, inspector_split=inner)


def question_keys(batch: pa.RecordBatch) -> pa.Array:
    """Return the content hash of every question's words: 32 hexadecimal digits."""
    # two questions of hashes (1, 2) and (3, 4) → digits 0…01 0…02 0…03 0…04 in one string, cut at ends [0, 32, 64]
    digits = words_of(batch.column("question")).content().astype(">u8").tobytes().hex().encode()
    ends = pa.array(np.arange(batch.num_rows + 1, dtype=np.int32) * 32)
    return pa.StringArray.from_buffers(batch.num_rows, ends.buffers()[1], pa.py_buffer(digits))


@dataclass
class ClusterQuestions(beam.PTransform):
    """Turn (chunks, decisions so far) into decisions that name the cluster of every question with near-duplicates.

    The questions of a table that was split before are compared too, whether these rows hold them or not. Newcomers near
    to two of its splits are dropped (`straddles_split`).
    """

    table: Table
    similarity: Similarity
    shares: Shares
    before: SplitBefore | None = None

    def expand(self, rows: Any) -> beam.PCollection[Keyed]:
        chunks, decided = rows
        table, own = self.table, 1 + max((shard.index for shard in self.table.shards), default=-1)
        if self.before:
            shards = tuple(replace(shard, index=own + shard.index) for shard in self.before.table.shards)
            earlier = replace(self.before.table, shards=shards)
            table = replace(table, shards=(*table.shards, *shards))
        compared = ComparedColumns(table, ("question",), self.similarity)
        keys = chunks | BandKeys(compared)
        if self.before:
            read = decided.pipeline | "Earlier" >> ReadTable(earlier, ["question"], chunk_rows=HASHED_ROWS)
            keys = (keys, read | "EarlierKeys" >> BandKeys(compared)) | "WithEarlier" >> beam.Flatten()
        name = partial(name_clusters, shares=self.shares, before=self.before, own_shards=own)
        return (keys, decided) | GroupCandidates(compared, by_question, name, ["question"])


def by_question(batch: pa.RecordBatch) -> pl.DataFrame:
    """Name every row by the content hash of its question."""
    return pl.DataFrame({"name": pl.from_arrow(question_keys(batch))})


def name_clusters(
    members: pl.DataFrame,
    sets: Shingles,
    threshold: float,
    shares: Shares,
    before: SplitBefore | None = None,
    own_shards: int = 1,
) -> Iterator[Keyed]:
    """Name the `cluster` of every row of a group of near-duplicates by the smallest name in it.

    Where the group holds questions that were split before, these keep their clusters. Newcomers get the smallest of
    them, if all lie in one split, and are dropped if not. Shards from `own_shards` on are those of the earlier table.
    """
    # a group of a, b and c, of which b and c were split before:    the same group without c:
    # name  earlier  side         drop_reason      cluster          cluster
    # a     -        -            straddles_split  -                x
    # b     x        train/train  -                x                x
    # c     y        test/        -                y
    texts, numbers = np.unique(members["text"].to_numpy(), return_inverse=True)
    members = members.with_columns(group=near_duplicate_groups(sets.take(texts), threshold)[numbers])
    members = members.filter(pl.len().over("group") > 1)
    members = members.with_columns(_earlier_sides(members["name"], shares, before))
    is_newcomer = pl.col("earlier").is_null()
    sides = pl.col("side").drop_nulls().n_unique().over("group")
    members = members.with_columns(drop_reason=pl.when(is_newcomer & (sides > 1)).then(pl.lit("straddles_split")))
    joined = pl.coalesce("earlier", pl.col("earlier").min().over("group"), pl.col("name").min().over("group"))
    members = members.with_columns(cluster=pl.when(pl.col("drop_reason").is_null()).then(joined))
    yield from to_decisions(members.filter(pl.col("shard") < own_shards))


def _earlier_sides(names: pl.Series, shares: Shares, before: SplitBefore | None) -> list[pl.Series]:
    """Return each question's earlier cluster, and the side that it lies on; null for a newcomer."""
    clusters = before.clusters(names.to_arrow()) if before else pa.nulls(len(names), pa.string())
    splits = shares.draw(clusters, "split")
    inner = pc.if_else(pc.equal(splits, SPLITS[0]), shares.draw(clusters, "inspector_split"), "")
    sides = pc.if_else(pc.is_valid(clusters), pc.binary_join_element_wise(splits, inner, "/"), None)
    columns = {"earlier": clusters, "side": sides}
    return [pl.Series(name, column.to_pylist(), dtype=pl.String) for name, column in columns.items()]
