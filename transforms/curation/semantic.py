"""Semantic duplicates: questions that mean the same in other words, by the cosine of their embeddings.

Comparing all pairs would be quadratic, so questions are compared within clusters alone (SemDeDup, Abbas et al. 2023,
section 3): spherical k-means on a sample gives the centres, each question belongs to the nearest. Two questions with a
border between them are not compared; in a table of fewer than twice ROWS_PER_CLUSTER rows there is no border. Within a
cluster all kept questions are compared: the cost of one topic that makes up most of a large table is its square.
Results agree up to the rounding of embeddings, which depends a little on the rows that are embedded together.

Shapes: N rows, C clusters, D dimensions of an embedding.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa

from transforms.curation.decisions import by_bucket, kept_rows, one_batch
from transforms.curation.preference import PREFERRED, Preference, drop_repeats
from transforms.engines.embedder import open_embedder
from transforms.tables.chunks import Chunk, Keyed
from transforms.tables.table import Table

ROWS_PER_CLUSTER = 4000
SAMPLED_PER_CLUSTER = 64
ITERATIONS = 10
SLICE = 4096  # vectors compared with all centres at a time


@dataclass(frozen=True)
class Semantic:
    """When two questions mean the same: above this cosine of their embeddings by the encoder in the folder."""

    embedder: str
    max_cosine: float

    def embed(self, batch: pa.RecordBatch) -> np.ndarray:
        """Embed the questions as unit vectors: float16[N, D]."""
        texts = [text or "" for text in batch.column("question").to_pylist()]
        return open_embedder(self.embedder).embed(texts).astype(np.float16)


def centres_of(vectors_ND: np.ndarray, count: int) -> np.ndarray:
    """Return the centres of `count` clusters by spherical k-means, begun with the first vectors: float32[C, D]."""
    vectors_ND = vectors_ND.astype(np.float32)
    centres_CD = vectors_ND[:count].copy()
    for _ in range(ITERATIONS):
        nearest_N = nearest(vectors_ND, centres_CD)
        sums_CD = np.zeros_like(centres_CD)
        np.add.at(sums_CD, nearest_N, vectors_ND)
        norms_C = np.linalg.norm(sums_CD, axis=1)
        centres_CD[norms_C > 0] = sums_CD[norms_C > 0] / norms_C[norms_C > 0, None]
    return centres_CD


def nearest(vectors_ND: np.ndarray, centres_CD: np.ndarray) -> np.ndarray:
    """Return the nearest centre of every vector: int64[N]."""
    parts = [vectors_ND[start : start + SLICE] for start in range(0, len(vectors_ND), SLICE)]
    centres = [(part_ND.astype(np.float32) @ centres_CD.T).argmax(axis=1) for part_ND in parts]
    return np.concatenate([np.empty(0, np.int64), *centres])


def same_kept(vectors_ND: np.ndarray, max_cosine: float) -> np.ndarray:
    """Return for every vector the first kept one before it with a higher cosine, or -1: int64[N].

    A vector with -1 is kept.
    """
    # vectors [a, b, a, b], a and b far apart → kept_rows [0, 1], same [-1, -1, 0, 1]
    vectors_ND = vectors_ND.astype(np.float32)
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)  # half precision does not keep them at length 1
    kept_ND, kept_rows = np.empty_like(vectors_ND), np.empty(len(vectors_ND), np.int64)
    same, count = np.full(len(vectors_ND), -1), 0
    for row, vector_D in enumerate(vectors_ND):
        alike = np.flatnonzero(kept_ND[:count] @ vector_D > max_cosine)
        if len(alike):
            same[row] = kept_rows[alike[0]]
        else:
            kept_ND[count], kept_rows[count] = vector_D, row
            count += 1
    return same


@dataclass
class DropSameMeaning(beam.PTransform):
    """Drop questions whose embedding has a higher cosine than allowed with one that stays, and name it.

    The preferred are asked first. Embeddings and row numbers cross the shuffle, no text does.
    """

    table: Table
    semantic: Semantic
    preference: Preference

    @property
    def clusters(self) -> int:
        return max(1, self.table.rows // ROWS_PER_CLUSTER)

    def expand(self, chunks: beam.PCollection[Chunk]) -> beam.PCollection[Keyed]:
        embedded = chunks | "Embed" >> beam.FlatMap(self._embed).with_output_types(Keyed)
        centres = (
            embedded
            | "Sample" >> beam.FlatMap(self._sample).with_output_types(tuple[int, pa.RecordBatch])
            | "SampleInOnePlace" >> beam.GroupByKey()
            | "Centres" >> beam.MapTuple(self._centres)
        )
        return (
            embedded
            | "Cluster" >> beam.FlatMap(self._cluster, beam.pvalue.AsIter(centres)).with_output_types(Keyed)
            | "ByCluster" >> beam.GroupByKey()
            | "Decide" >> beam.FlatMapTuple(self._decide).with_output_types(Keyed)
        )

    def _embed(self, chunk: Chunk) -> Iterator[Keyed]:
        batch, rows = kept_rows(chunk)
        if batch.num_rows:
            vectors_ND = self.semantic.embed(batch)
            members = self.preference.rank(batch).with_columns(shard=pl.lit(chunk.shard), row=pl.Series(rows))
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(vectors_ND.ravel()), vectors_ND.shape[1])
            yield 0, one_batch(members).append_column("vector", vectors)

    def _sample(self, keyed: Keyed) -> Iterator[Keyed]:
        """Draw the rows with small hashes, about twice as many as the centres are learned from."""
        batch = keyed[1]
        if self.clusters > 1:
            share = min(1.0, 2 * self.clusters * SAMPLED_PER_CLUSTER / self.table.rows)
            is_drawn = batch.column("tie").to_numpy() / 2.0**64 <= share
            yield 0, batch.select(["tie", "vector"]).filter(pa.array(is_drawn))

    def _centres(self, _: int, batches: Iterable[pa.RecordBatch]) -> np.ndarray:
        sample = pa.Table.from_batches(batches).sort_by("tie").slice(0, self.clusters * SAMPLED_PER_CLUSTER)
        return centres_of(_vectors(sample), self.clusters)

    def _cluster(self, keyed: Keyed, centres: Iterable[np.ndarray]) -> Iterator[Keyed]:
        batch = keyed[1]
        clusters = np.zeros(batch.num_rows, np.uint64)
        for centres_CD in centres:
            clusters = nearest(_vectors(pa.Table.from_batches([batch])), centres_CD).astype(np.uint64)
        yield from by_bucket(batch, clusters, self.clusters)

    def _decide(self, _: int, batches: Iterable[pa.RecordBatch]) -> Iterator[Keyed]:
        members = pa.Table.from_batches(batches).sort_by([(name, "ascending") for name in PREFERRED])
        same = same_kept(_vectors(members), self.semantic.max_cosine)
        yield from drop_repeats(pl.from_arrow(members.drop_columns(["vector"])), same, "same_meaning")


def _vectors(rows: pa.Table) -> np.ndarray:
    """Return the embeddings of the rows: float16[N, D]."""
    vectors = rows.column("vector").combine_chunks()
    return vectors.flatten().to_numpy().reshape(len(vectors), -1)
