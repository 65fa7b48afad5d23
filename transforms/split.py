"""One split of the questions into train, validation and test, and the inspector's own inside train.

A question goes where the hash of its cluster sends it: the cluster is the group of its near-duplicates, named after
the smallest content hash among them, so that none of them lies on the other side and order or place decide nothing.
The inspector is trained on pairs of the aligner's training part alone; else its training would have seen the questions
that the aligner is tested on (paper 000, app. C). Identity triples have one text for both labels: not for inspectors.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from transforms.decisions import Keyed, decide
from transforms.duplicates import GroupNearDuplicates
from transforms.near_duplicates import Similarity
from transforms.shingles import normalised
from transforms.tables import Chunk, Table

SPLITS = ("train", "validation", "test")

Shares = tuple[float, float, float]


@dataclass(frozen=True)
class AlikePairs:
    """Pairs of response and correction that are too alike to tell an inspector apart.

    `max_similarity` is a cosine of their embeddings by the encoder in the folder `embedder`.
    """

    embedder: str
    max_similarity: float

    def __call__(self, batch: pa.RecordBatch) -> np.ndarray:
        """Which pairs reach the similarity: bool[N]."""
        from transforms.engines.embedder import open_embedder

        embed = open_embedder(self.embedder).embed
        responses, corrections = (embed(batch.column(name).to_pylist()) for name in ("response", "correction"))
        return (responses * corrections).sum(axis=1) >= self.max_similarity


def assign_splits(
    batch: pa.RecordBatch, shares: Shares, inspector_shares: Shares, seed: int, alike: AlikePairs | None = None
) -> pa.RecordBatch:
    """Add `split` and `inspector_split`, and fill `cluster` where a question is alone in its cluster."""
    clusters = pc.coalesce(batch.column("cluster"), pa.array(question_keys(batch), pa.string()))
    names = clusters.to_pylist()
    splits = splits_of(names, "split", shares, seed)
    for_inspector = splits == SPLITS[0]
    if "identity" in batch.schema.names:
        for_inspector &= ~np.asarray(pc.fill_null(batch.column("identity"), False), np.bool_)
    if alike is not None and for_inspector.any():
        for_inspector[for_inspector] = ~alike(batch.filter(pa.array(for_inspector)))
    inner = pa.array(splits_of(names, "inspector_split", inspector_shares, seed), pa.string(), mask=~for_inspector)
    batch = batch.set_column(batch.schema.get_field_index("cluster"), "cluster", clusters)
    batch = batch.append_column("split", pa.array(splits, pa.string()))
    return batch.append_column("inspector_split", inner)


def question_keys(batch: pa.RecordBatch) -> list[str]:
    """The content hash of every question's normalised text: 32 hexadecimal digits."""
    texts = normalised(batch.column("question")).cast(pl.Binary)
    return [xxhash.xxh3_128_hexdigest(text) for text in texts.to_list()]


def splits_of(clusters: list[str], step: str, shares: Shares, seed: int) -> np.ndarray:
    """The splits that the clusters' hashes send them to, in these shares: str[N]."""
    hashes = (xxhash.xxh3_64_intdigest(f"{step} {seed} {cluster}".encode()) for cluster in clusters)
    points = np.fromiter(hashes, np.uint64, len(clusters)) / 2.0**64
    return np.array(SPLITS)[np.searchsorted(np.cumsum(shares)[:-1], points, side="right")]


@dataclass
class ClusterQuestions(beam.PTransform):
    """Decisions that name the cluster of every question that has near-duplicates among the rows still in."""

    table: Table
    similarity: Similarity

    def expand(self, chunks: beam.PCollection[Chunk]) -> beam.PCollection[Keyed]:
        return chunks | GroupNearDuplicates(
            self.table, ("question",), self.similarity, by_question, named_after_first, read=["question"]
        )


def by_question(batch: pa.RecordBatch) -> pl.DataFrame:
    """Rows named by the content hash of their question."""
    return pl.DataFrame({"name": question_keys(batch)}, schema={"name": pl.String})


def named_after_first(members: pl.DataFrame) -> Iterator[Keyed]:
    """Decisions that give every row of a group the smallest name in it as its `cluster`."""
    yield from decide(members.with_columns(cluster=pl.col("name").min().over("group")))
