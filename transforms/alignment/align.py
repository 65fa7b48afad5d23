"""Align responses with a squad: score, rewrite what falls short, score again, keep what is better; and so on.

Every row has a turn of one member at each step: of the one whose criterion it meets least (`worst`), or of the next in
an order (paper 002 takes criteria by ascending mean score). A member rewrites the rows below its threshold (paper 000,
section 2), and a guard refuses what does not raise its score, or lowers another too far. All inspectors score every
rewrite, so that a trajectory shows what one aligner did to another criterion.

A batch carries the row's state in columns of its own until `finish`: `aligned` (the text as it stands), `scores`,
`tried` (members without effect on that text, as bits), and one struct `step_<n>` per step.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.criteria.pack import Pack
from schemas.tables import TRAJECTORIES
from transforms.generation.generate import Generate, Model
from transforms.synthesis.triples import parse_rewrite, rewrite_prompts
from transforms.tables import progress
from transforms.tables.chunks import Chunk, MapBatches
from transforms.tables.columns import with_columns
from transforms.tables.marks import kept, reject_where
from transforms.training_data.aligner_format import aligner_prompt, read_correction

Routing = Literal["worst", "in_turn"]
BYTES_PER_TOKEN = 3.0  # of text, at the least that is usual: a rewrite should not be cut for want of room
LIMIT_STEP = 64  # tokens; few different limits


@dataclass(frozen=True, kw_only=True)
class Member:
    """A criterion with the inspector that scores it and the model that rewrites what it scores below `threshold`.

    inspector: folder of a trained inspector. model: a trained aligner, or, where `pack` is given, a large model that
    is prompted with the pack's principles (paper 000, app. D).
    """

    criterion: str
    inspector: str
    model: Model
    pack: Pack | None = None
    threshold: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Whose turn it is, how often, and which rewrites stay.

    routing: `worst` takes the lowest score below its threshold among the members not tried on this text; `in_turn`
        goes by the column `order` (lists of members' numbers, from 0), else by `order`, else as the members stand.
    steps: turns that a row has at most.
    every_row: rewrite whatever the score.
    guard: keep a rewrite only if its own score rises, by at least `margin`, and no other falls by more than `max_loss`.
    fixed_length: all rewrites have the sampling's limit of tokens, and one that is cut off there may stay (paper 002).
    """

    routing: Routing = "worst"
    steps: int = 1
    order: tuple[int, ...] = ()
    every_row: bool = False
    guard: bool = True
    margin: float = 0.0
    max_loss: float = 1.0
    fixed_length: bool = False


def begin(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Every row starts as it is; one without a question or a response is rejected."""
    for column in ("question", "response"):
        values = batch.column(column)
        batch = reject_where(batch, pc.is_null(values), f"null_{column}")
        blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(values)), 0)
        batch = reject_where(batch, blank, f"empty_{column}")
    tried = pa.array(np.zeros(batch.num_rows, np.uint64))
    return with_columns(batch, aligned=batch.column("response"), tried=tried)


def score_matrix(batch: pa.RecordBatch, column: str, members: Sequence[Member]) -> np.ndarray:
    """The scores of every row by every member's inspector, NaN where there is none: float64[N, M]."""
    scores = batch.column(column)
    columns = [pc.struct_field(scores, member.criterion) for member in members]
    return np.stack([values.to_numpy(zero_copy_only=False).astype(np.float64) for values in columns], axis=1)


def route(batch: pa.RecordBatch, members: Sequence[Member], policy: Policy, step: int) -> pa.RecordBatch:
    """Give `member`, `prompt` and `max_tokens` to the rows that are rewritten at this step (from 1); no failed one is.

    A rewrite may take twice the tokens of the text, or what the sampling says, if that is more.
    """
    scores_NM = score_matrix(batch, "scores", members)
    asked_NM = scores_NM < [member.threshold for member in members]
    if policy.every_row:
        asked_NM[:] = True
    if policy.routing == "worst":
        bits = np.arange(len(members), dtype=np.uint64)
        asked_NM &= (batch.column("tried").to_numpy()[:, None] >> bits) & np.uint64(1) == 0
        turns = np.where(asked_NM, scores_NM, np.inf).argmin(axis=1)
    elif "order" in batch.schema.names:
        turns = pc.list_element(batch.column("order"), step - 1).to_numpy().astype(np.int64)
    else:
        turns = np.full(batch.num_rows, policy.order[step - 1] if policy.order else step - 1)
    asked = asked_NM[np.arange(batch.num_rows), turns] & np.asarray(kept(batch), np.bool_)
    prompts = np.full(batch.num_rows, None, object)
    for number, member in enumerate(members):
        rows = np.flatnonzero(asked & (turns == number))
        if len(rows):
            prompts[rows] = prompts_of(batch.take(pa.array(rows)), member)
    names = pa.array([member.criterion for member in members]).take(pa.array(turns, mask=~asked))
    batch = with_columns(batch, member=names, prompt=pa.array(prompts, pa.string()))
    if policy.fixed_length:
        return batch
    tokens = pc.divide(pc.binary_length(batch.column("aligned")), BYTES_PER_TOKEN)
    limits = pc.multiply(pc.ceil(pc.divide(pc.multiply(tokens, 2.0), LIMIT_STEP)), LIMIT_STEP)
    return with_columns(batch, max_tokens=limits.cast(pa.int64()))


def prompts_of(batch: pa.RecordBatch, member: Member) -> list[str | None]:
    """What the member's model is asked about the text of every row as it stands."""
    if member.pack is not None:
        texts = with_columns(batch, response=batch.column("aligned"))
        return rewrite_prompts(texts, member.pack).column("prompt").to_pylist()
    pairs = zip(batch.column("question").to_pylist(), batch.column("aligned").to_pylist(), strict=True)
    return [aligner_prompt(question, text) for question, text in pairs]


def propose(batch: pa.RecordBatch, members: Sequence[Member]) -> pa.RecordBatch:
    """Read the members' rewrites into `candidate`, null where there is none; `reason` says what is wrong with it."""
    candidates, reasons = (np.full(batch.num_rows, None, object) for _ in range(2))
    for member in members:
        asked = pc.and_(pc.equal(batch.column("member"), member.criterion), pc.is_valid(batch.column("completion")))
        rows = np.flatnonzero(pc.fill_null(asked, False))
        if not len(rows):
            continue
        answered = batch.take(pa.array(rows))
        if member.pack is not None:
            parsed = parse_rewrite(answered)
            candidates[rows] = parsed.column("correction").to_pylist()
            reasons[rows] = parsed.column("error").to_pylist()
        else:
            candidates[rows] = [read_correction(text) for text in answered.column("completion").to_pylist()]
            ends = answered.column("finish_reason").to_pylist()
            reasons[rows] = ["truncated" if end == "length" else None for end in ends]
        for row in rows:
            if not (candidates[row] or "").strip():
                candidates[row], reasons[row] = None, reasons[row] or "empty_rewrite"
    return with_columns(batch, candidate=pa.array(candidates, pa.string()), reason=pa.array(reasons, pa.string()))


def decide(batch: pa.RecordBatch, members: Sequence[Member], policy: Policy, step: int) -> pa.RecordBatch:
    """Keep or refuse each candidate, and write the step down.

    A candidate that was cut off is refused; with the guard also one whose own score does not rise as the policy
    demands, or that lowers another score too far. A row whose generation failed keeps its text.
    """
    rows = np.arange(batch.num_rows)
    before_NM, after_NM = (score_matrix(batch, name, members) for name in ("scores", "candidate_scores"))
    names = [member.criterion for member in members]
    turns = pc.fill_null(pc.index_in(batch.column("member"), pa.array(names)), 0).to_numpy()
    candidate, text = batch.column("candidate"), batch.column("aligned")
    proposed = np.asarray(pc.is_valid(candidate), np.bool_)
    trimmed = (pc.utf8_trim_whitespace(texts) for texts in (candidate, text.cast(pa.string())))
    same = np.asarray(pc.fill_null(pc.equal(*trimmed), False), np.bool_)
    reasons = batch.column("reason").to_numpy(zero_copy_only=False)
    refused = proposed & (reasons == "truncated") & (not policy.fixed_length)
    if policy.guard:
        change_NM = np.nan_to_num(after_NM - before_NM, nan=-np.inf)  # what cannot be scored does not pass
        own = change_NM[rows, turns]
        change_NM[rows, turns] = 0
        harmed = change_NM.argmin(axis=1)
        for why, mask in (
            ("scored_lower", own < 0),
            ("gained_too_little", (own < policy.margin) | (own == 0)),
            ("harmed", change_NM[rows, harmed] < -policy.max_loss),
        ):
            for row in np.flatnonzero(mask & proposed & ~same & ~refused):
                reasons[row] = why if why != "harmed" else f"harmed:{names[harmed[row]]}"
                refused[row] = True
    accepted = proposed & ~refused
    asked = np.asarray(pc.is_valid(batch.column("prompt")), np.bool_)
    decision = np.select(
        [~asked, np.asarray(pc.is_valid(batch.column("error")), np.bool_), accepted & same, accepted],
        ["not_asked", "failed", "unchanged", "rewritten"],
        "refused",  # by the guard, or because there is no text to put in: `reason` says why
    )
    changed = accepted & ~same
    tried = batch.column("tried").to_numpy() | np.where(asked, np.uint64(1) << turns.astype(np.uint64), np.uint64(0))
    mask = pa.array(changed)
    scores = pc.if_else(mask, batch.column("candidate_scores"), batch.column("scores"))
    batch = with_columns(
        batch,
        aligned=pc.if_else(mask, candidate, text),
        scores=scores,
        tried=pa.array(np.where(changed, np.uint64(0), tried)),
    )
    why = pa.array(reasons, pa.string())
    what = pa.array(decision, pa.string())
    return record(batch, step, batch.column("member"), candidate, scores, batch.column("candidate_scores"), what, why)


def record(
    batch: pa.RecordBatch,
    step: int,
    member: pa.Array,
    text: pa.Array,
    scores: pa.Array,
    candidate_scores: pa.Array,
    decision: pa.Array,
    reason: pa.Array,
) -> pa.RecordBatch:
    """Add the struct `step_<n>`: the member applied, the text it proposed with its scores, and all scores after it."""
    parts = {
        "member": member,
        "text": text,
        "scores": scores,
        "candidate_scores": candidate_scores,
        "decision": decision,
        "reason": reason,
    }
    return with_columns(batch, **{f"step_{step}": pc.make_struct(*parts.values(), field_names=list(parts))})


def start_record(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Step 0: the response as it came in, with its scores."""
    nothing = pa.nulls(batch.num_rows, pa.string())
    decision = pc.if_else(kept(batch), pa.scalar("as_given"), pa.scalar("failed"))
    batch = with_columns(batch, scores_before=batch.column("scores"))
    scores = batch.column("scores")
    return record(batch, 0, nothing, batch.column("response"), scores, scores, decision, nothing)


def finish(batch: pa.RecordBatch, steps: int) -> pa.RecordBatch:
    """Sum up the steps as the row's `decision`, and name the last scores `scores_after`.

    A row with a rewrite that was kept is `rewritten`, even where a request for another one failed.
    """
    decisions = [pc.struct_field(batch.column(f"step_{step}"), "decision") for step in range(1, steps + 1)]

    def any_step(decision: str) -> pa.BooleanArray:
        found = pa.array([False] * batch.num_rows, pa.bool_())
        for values in decisions:
            found = pc.or_(found, pc.equal(values, decision))
        return found

    decision = pc.case_when(
        pc.make_struct(
            any_step("rewritten"),
            pc.is_valid(batch.column("error")),
            any_step("refused"),
            any_step("unchanged"),
        ),
        "rewritten",
        "failed",
        "refused",
        "unchanged",
        "above_threshold",
    )
    batch = with_columns(batch, decision=decision)
    return with_columns(batch, scores_after=batch.column("scores"))


@dataclass(frozen=True)
class SplitAligned:
    """Part a finished chunk into `aligned` (every row, in order), `trajectories` and `rejects`.

    names: of the shards' files, by index.
    """

    steps: int
    names: Mapping[int, str]

    def __call__(self, chunk: Chunk) -> dict[str, pa.RecordBatch]:
        batch = chunk.batch
        failed = batch.filter(pc.is_valid(batch.column("error")))
        return {
            "aligned": batch,
            "trajectories": trajectories(chunk, self.steps, self.names[chunk.shard]),
            "rejects": failed,
        }


def trajectories(chunk: Chunk, steps: int, shard: str) -> pa.RecordBatch:
    """One row per row and step, by row then step."""
    batch, parts = chunk.batch, []
    rows = pa.array(range(chunk.first_row, chunk.first_row + batch.num_rows), pa.int64())
    for step in range(steps + 1):
        values = batch.column(f"step_{step}")
        columns = {
            "id": batch.column("id").cast(pa.string()),
            "shard": pa.array([shard] * batch.num_rows),
            "row": rows,
            "step": pa.array([step] * batch.num_rows, pa.int32()),
            "member": pc.struct_field(values, "member"),
            "text": pc.struct_field(values, "text"),
            "scores": _as_map(pc.struct_field(values, "scores")),
            "candidate_scores": _as_map(pc.struct_field(values, "candidate_scores")),
            "decision": pc.struct_field(values, "decision"),
            "reason": pc.struct_field(values, "reason"),
        }
        parts.append(pa.RecordBatch.from_arrays(list(columns.values()), schema=TRAJECTORIES))
    table = pa.Table.from_batches(parts, TRAJECTORIES).sort_by([("row", "ascending"), ("step", "ascending")])
    return table.combine_chunks().to_batches()[0] if table.num_rows else parts[0]


def _as_map(scores: pa.StructArray) -> pa.MapArray:
    names = [field.name for field in scores.type]
    columns = [pc.struct_field(scores, name).to_numpy(zero_copy_only=False).astype(np.float64) for name in names]
    values_NM = np.stack(columns, axis=1)
    known = np.isfinite(values_NM).any(axis=1)
    values_NM = values_NM[known]
    ends = np.cumsum(np.where(known, len(names), 0))
    starts = pa.array(np.append(0, ends).astype(np.int32), mask=np.append(~known, False))
    keys = pa.array(names).take(pa.array(np.tile(np.arange(len(names)), len(values_NM))))
    return pa.MapArray.from_arrays(starts, keys, pa.array(values_NM.ravel(), mask=np.isnan(values_NM.ravel())))


class _ScoreFn(beam.DoFn):
    """Scores of every inspector for one text column, as a struct; batches are formed within a chunk."""

    _loading = threading.Lock()

    def __init__(self, inspectors: dict[str, str], column: str, into: str, step: str, bf16: bool):
        self.inspectors = inspectors
        self.bf16 = bf16
        self.column = column
        self.into = into
        self.step = step

    def setup(self) -> None:
        from transforms.engines.inspector import open_inspector, score_all

        self.score_all = score_all
        with self._loading:
            self.opened = {name: open_inspector(folder, self.bf16) for name, folder in self.inspectors.items()}

    def process(self, chunk: Chunk) -> list[Chunk]:
        batch = chunk.batch
        rows = np.flatnonzero(pc.and_(kept(batch), pc.is_valid(batch.column(self.column))))
        questions, answers = (batch.column(name).take(pa.array(rows)).to_pylist() for name in ("question", self.column))
        columns = []
        for found in self.score_all(self.opened, questions, answers).values():
            scores = np.full(batch.num_rows, np.nan)
            scores[rows] = found
            columns.append(pa.array(scores, mask=np.isnan(scores)))
        progress.add(self.step, done=batch.num_rows)
        return [
            chunk.with_batch(
                with_columns(batch, **{self.into: pc.make_struct(*columns, field_names=list(self.opened))})
            )
        ]


@dataclass
class Score(beam.PTransform):
    """Add the struct `into`: the score of each inspector ({criterion: folder}) for the text in `column`.

    step: names the work in transforms.tables.progress. bf16: score in bfloat16.
    """

    inspectors: dict[str, str]
    column: str
    into: str
    step: str
    bf16: bool = False

    def expand(self, chunks: beam.PCollection[Chunk]) -> beam.PCollection[Chunk]:
        score = _ScoreFn(self.inspectors, self.column, self.into, self.step, self.bf16)
        return chunks | "Inspect" >> beam.ParDo(score).with_output_types(Chunk)


@dataclass
class Align(beam.PTransform):
    """Chunks with `id`, `question` and `response` to chunks with what `finish` adds; no row is removed.

    Chunks that have `scores` are not inspected again before the first step. bf16: inspectors score in bfloat16.
    """

    members: Sequence[Member]
    policy: Policy = Policy()
    seed: int = 0
    cache: str | None = None
    scored: bool = False
    bf16: bool = False

    def expand(self, chunks: beam.PCollection[Chunk]) -> beam.PCollection[Chunk]:
        members, policy = self.members, self.policy
        inspectors = {member.criterion: member.inspector for member in members}
        models = {member.criterion: member.model for member in members}
        chunks = chunks | "Begin" >> MapBatches(begin)
        if not self.scored:
            chunks = chunks | "ScoreResponse" >> Score(inspectors, "response", "scores", "score responses", self.bf16)
        chunks = chunks | "Record" >> MapBatches(start_record)
        for step in range(1, policy.steps + 1):
            chunks = (
                chunks
                | f"Route{step}" >> MapBatches(partial(route, members=members, policy=policy, step=step))
                | f"Rewrite{step}" >> Generate(models, f"rewrite {step}", self.seed, self.cache)
                | f"Propose{step}" >> MapBatches(partial(propose, members=members))
                | f"ScoreRewrite{step}"
                >> Score(inspectors, "candidate", "candidate_scores", f"score rewrites {step}", self.bf16)
                | f"Decide{step}" >> MapBatches(partial(decide, members=members, policy=policy, step=step))
            )
        return chunks | "Finish" >> MapBatches(partial(finish, steps=policy.steps))
