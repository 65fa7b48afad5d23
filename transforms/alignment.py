"""Align responses: score, rewrite what falls short, score again, keep what is better; one criterion after another.

Per criterion (paper 000, section 2; paper 002 for several): rows whose score is below the threshold, or every row,
are rewritten; a guard refuses a rewrite that its own inspector scores lower, or not enough higher. All inspectors score
all rows at every step, so that a trajectory shows what one aligner did to another criterion.

A batch carries the row's state in columns of its own until `finish`: `aligned` (the text as it stands), `scores`,
and one struct `step_<n>` per step.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from schemas.criteria import Pack
from schemas.tables import TRAJECTORIES
from transforms import progress
from transforms.aligner_format import aligner_prompt, read_correction
from transforms.columns import with_columns
from transforms.drops import kept, reject_where
from transforms.engines import EngineConfig, Sampling
from transforms.generate import Generate
from transforms.tables import Chunk, MapBatches
from transforms.triples import parse_rewrite, rewrite_prompts

Routing = Literal["below_threshold", "all"]


@dataclass(frozen=True, kw_only=True)
class Member:
    """A criterion with the inspector that scores it and the model that rewrites for it.

    inspector: folder of a trained inspector. engine: a trained aligner, or, where `pack` is given, a large model that
    is prompted with the pack's principles (paper 000, app. D).
    """

    criterion: str
    inspector: str
    engine: EngineConfig
    sampling: Sampling
    pack: Pack | None = None


def begin(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Every row starts as it is; one without a question or a response is rejected."""
    for column in ("question", "response"):
        values = batch.column(column)
        batch = reject_where(batch, pc.is_null(values), f"null_{column}")
        blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(values)), 0)
        batch = reject_where(batch, blank, f"empty_{column}")
    return with_columns(batch, aligned=batch.column("response"))


def score_of(batch: pa.RecordBatch, column: str, criterion: str) -> pa.DoubleArray:
    return pc.struct_field(batch.column(column), criterion)


def route(batch: pa.RecordBatch, member: Member, routing: Routing, threshold: float) -> pa.RecordBatch:
    """Give `prompt` to the rows that this member rewrites: those below the threshold, or all; never a failed one."""
    asked = kept(batch)
    if routing == "below_threshold":
        asked = pc.and_(asked, pc.fill_null(pc.less(score_of(batch, "scores", member.criterion), threshold), False))
    text = batch.column("aligned")
    texts = with_columns(batch, response=pc.if_else(asked, text, pa.scalar(None, text.type)))
    if member.pack is not None:
        prompts = rewrite_prompts(texts, member.pack).column("prompt")
    else:
        pairs = zip(texts.column("question").to_pylist(), texts.column("response").to_pylist(), strict=True)
        prompts = pa.array([y if y is None else aligner_prompt(x, y) for x, y in pairs], pa.string())
    return with_columns(batch, prompt=prompts)


def propose(batch: pa.RecordBatch, member: Member) -> pa.RecordBatch:
    """Read the member's rewrite into `candidate`, null where there is none; `reason` says what is wrong with it."""
    asked = pc.and_(pc.is_valid(batch.column("prompt")), pc.is_valid(batch.column("completion")))
    reason = pa.nulls(batch.num_rows, pa.string())
    if member.pack is not None:
        parsed = parse_rewrite(batch)
        candidates = parsed.column("correction")
        reason = pc.if_else(asked, parsed.column("error"), reason)
    else:
        texts = [text and read_correction(text) for text in batch.column("completion").to_pylist()]
        candidates = pa.array(texts, pa.string())
        truncated = pc.fill_null(pc.equal(batch.column("finish_reason"), "length"), False)
        reason = pc.if_else(pc.and_(asked, truncated), pa.scalar("truncated"), reason)
    blank = pc.fill_null(pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(candidates)), 0), True)
    reason = pc.if_else(pc.and_(pc.and_(asked, blank), pc.is_null(reason)), pa.scalar("empty_rewrite"), reason)
    usable = pc.and_(asked, pc.invert(blank))
    batch = with_columns(batch, candidate=pc.if_else(usable, candidates, pa.scalar(None, pa.string())))
    return with_columns(batch, reason=reason)


def decide(batch: pa.RecordBatch, step: int, criterion: str, guard: bool, margin: float = 0.0) -> pa.RecordBatch:
    """Keep or refuse each candidate, and write the step down.

    With the guard, a candidate is refused that its own inspector scores lower than the text it would replace, or less
    than `margin` higher, or that was cut off. A row whose generation failed keeps its text.
    """
    before, after = score_of(batch, "scores", criterion), score_of(batch, "candidate_scores", criterion)
    candidate, reason = batch.column("candidate"), batch.column("reason")
    proposed = pc.is_valid(candidate)
    same = pc.fill_null(pc.equal(candidate, batch.column("aligned")), False)
    if guard:
        lower = pc.fill_null(pc.less(after, before), False)
        too_little = pc.and_not(pc.fill_null(pc.less(pc.subtract(after, before), margin), False), same)
        refused = pc.or_(pc.or_(lower, too_little), pc.fill_null(pc.equal(reason, "truncated"), False))
        refused = pc.and_(proposed, refused)
        why = pc.if_else(lower, "scored_lower", "gained_too_little")
        reason = pc.if_else(pc.and_(refused, pc.is_null(reason)), why, reason)
    else:
        refused = pa.array([False] * batch.num_rows, pa.bool_())
    accepted = pc.and_(proposed, pc.invert(refused))
    asked = pc.is_valid(batch.column("prompt"))
    decision = pc.case_when(
        pc.make_struct(
            pc.invert(asked),
            pc.is_valid(batch.column("error")),
            pc.and_(accepted, same),
            accepted,
        ),
        "not_asked",
        "failed",
        "unchanged",
        "rewritten",
        "refused",  # by the guard, or because there is no text to put in: `reason` says why
    )
    scores = pc.if_else(accepted, batch.column("candidate_scores"), batch.column("scores"))
    batch = with_columns(batch, aligned=pc.if_else(accepted, candidate, batch.column("aligned")))
    batch = with_columns(batch, scores=scores)
    return record(batch, step, criterion, candidate, scores, batch.column("candidate_scores"), decision, reason)


def record(
    batch: pa.RecordBatch,
    step: int,
    member: str | None,
    text: pa.Array,
    scores: pa.Array,
    candidate_scores: pa.Array,
    decision: pa.Array,
    reason: pa.Array,
) -> pa.RecordBatch:
    """Add the struct `step_<n>`: the member applied, the text it proposed with its scores, and all scores after it."""
    parts = {
        "member": pa.array([member] * batch.num_rows, pa.string()),
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
    return record(batch, 0, None, batch.column("response"), scores, scores, decision, nothing)


def finish(batch: pa.RecordBatch, steps: int) -> pa.RecordBatch:
    """Sum up the steps as the row's `decision`, and name the last scores `scores_after`."""
    decisions = [pc.struct_field(batch.column(f"step_{step}"), "decision") for step in range(1, steps + 1)]

    def any_step(decision: str) -> pa.BooleanArray:
        found = pa.array([False] * batch.num_rows, pa.bool_())
        for values in decisions:
            found = pc.or_(found, pc.equal(values, decision))
        return found

    decision = pc.case_when(
        pc.make_struct(
            pc.is_valid(batch.column("error")),
            any_step("rewritten"),
            any_step("refused"),
            any_step("unchanged"),
        ),
        "failed",
        "rewritten",
        "refused",
        "unchanged",
        "above_threshold",
    )
    batch = with_columns(batch, decision=decision)
    return with_columns(batch, scores_after=batch.column("scores"))


@dataclass(frozen=True)
class SplitAligned:
    """Part a finished chunk into `aligned` (every row, in order), `trajectories` and `rejects`."""

    steps: int

    def __call__(self, chunk: Chunk) -> dict[str, pa.RecordBatch]:
        batch = chunk.batch
        failed = batch.filter(pc.is_valid(batch.column("error")))
        return {"aligned": batch, "trajectories": trajectories(chunk, self.steps), "rejects": failed}


def trajectories(chunk: Chunk, steps: int) -> pa.RecordBatch:
    """One row per row and step, by row then step."""
    batch, parts = chunk.batch, []
    rows = pa.array(range(chunk.first_row, chunk.first_row + batch.num_rows), pa.int64())
    for step in range(steps + 1):
        values = batch.column(f"step_{step}")
        columns = {
            "id": batch.column("id").cast(pa.string()),
            "shard": pa.array([chunk.shard] * batch.num_rows, pa.int32()),
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
    rows = [None if row is None else list(row.items()) for row in scores.to_pylist()]
    return pa.array(rows, pa.map_(pa.string(), pa.float64()))


class _ScoreFn(beam.DoFn):
    """Scores of every inspector for one text column, as a struct; batches are formed within a chunk."""

    _loading = threading.Lock()

    def __init__(self, inspectors: dict[str, str], column: str, into: str):
        self.inspectors = inspectors
        self.column = column
        self.into = into

    def setup(self) -> None:
        from transforms.engines.inspector import open_inspector

        with self._loading:
            self.opened = {criterion: open_inspector(folder) for criterion, folder in self.inspectors.items()}

    def process(self, chunk: Chunk) -> list[Chunk]:
        batch = chunk.batch
        wanted = pc.and_(kept(batch), pc.is_valid(batch.column(self.column))).to_pylist()
        rows = [row for row, want in enumerate(wanted) if want]
        texts = {column: batch.column(column).to_pylist() for column in ("question", self.column)}
        questions, answers = ([texts[column][row] for row in rows] for column in ("question", self.column))
        columns = []
        for inspector in self.opened.values():
            scores: list[float | None] = [None] * batch.num_rows
            for row, score in zip(rows, inspector.score(questions, answers).tolist(), strict=True):
                scores[row] = score
            columns.append(pa.array(scores, pa.float64()))
        progress.add(f"score {self.into}", done=batch.num_rows)
        return [
            chunk.with_batch(
                with_columns(batch, **{self.into: pc.make_struct(*columns, field_names=list(self.opened))})
            )
        ]


@dataclass
class Score(beam.PTransform):
    """Add the struct `into`: the score of each inspector ({criterion: folder}) for the text in `column`."""

    inspectors: dict[str, str]
    column: str
    into: str

    def expand(self, chunks: beam.PCollection[Chunk]) -> beam.PCollection[Chunk]:
        score = _ScoreFn(self.inspectors, self.column, self.into)
        return chunks | "Inspect" >> beam.ParDo(score).with_output_types(Chunk)


@dataclass
class Align(beam.PTransform):
    """Chunks with `id`, `question` and `response` to chunks with what `finish` adds; no row is removed."""

    members: Sequence[Member]
    routing: Routing = "below_threshold"
    threshold: float = 0.5
    guard: bool = True
    guard_margin: float = 0.0
    seed: int = 0
    cache: str | None = None
    inspectors: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        super().__init__()
        self.inspectors = {member.criterion: member.inspector for member in self.members}

    def expand(self, chunks: beam.PCollection[Chunk]) -> beam.PCollection[Chunk]:
        chunks = (
            chunks
            | "Begin" >> MapBatches(begin)
            | "ScoreResponse" >> Score(self.inspectors, "response", "scores")
            | "Record" >> MapBatches(start_record)
        )
        for step, member in enumerate(self.members, 1):
            chunks = chunks | f"Member{step}" >> _AlignOnce(self, step, member)
        steps = len(self.members)
        return chunks | "Finish" >> MapBatches(lambda batch: finish(batch, steps))


@dataclass
class _AlignOnce(beam.PTransform):
    """One member's turn."""

    plan: Align
    step: int
    member: Member

    def expand(self, chunks: beam.PCollection[Chunk]) -> beam.PCollection[Chunk]:
        plan, member = self.plan, self.member
        return (
            chunks
            | "Route" >> MapBatches(lambda batch: route(batch, member, plan.routing, plan.threshold))
            | "Rewrite"
            >> Generate(member.engine, member.sampling, f"rewrite {member.criterion}", plan.seed, plan.cache)
            | "Propose" >> MapBatches(lambda batch: propose(batch, member))
            | "ScoreRewrite" >> Score(plan.inspectors, "candidate", "candidate_scores")
            | "Decide"
            >> MapBatches(lambda batch: decide(batch, self.step, member.criterion, plan.guard, plan.guard_margin))
        )
