"""What a step would make and cost before anything is spent: rows, requests, tokens, memory, hours.

Rows, requests and prompt tokens are exact or at most. Tokens are counted in prompts that are rendered as the step would
render them, of the rows that its inputs have or of ones like those that they will have. Generated tokens are at most
what the sampling allows; where a smaller run of the same step is there, they are what it took, for as many requests as
are likely. Hours follow from a stated throughput, which is a guess and is printed with them.
"""

import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas.criteria.pack import Pack
from transforms.engines.encoder import model_config
from transforms.engines.engine import EngineConfig
from transforms.engines.prompt_tokens import TokenCounter, token_counter
from transforms.tables.chunks import NOTHING_ASKED, Asked
from transforms.tables.table import Table

SAMPLE_ROWS = 200
FEW_ROWS = 10  # of which the longest counts for all
DEVIATIONS = 3.0  # standard errors that a sample's mean is raised by, so that the sum of all rows is hardly more
BYTES_PER_PARAMETER = 2  # bf16
GPU_FLOPS = 2e14  # what a current data-centre GPU reaches in batched generation
CPU_FLOPS = 2e11

WORD = " a"  # a token of any vocabulary

Prompts = Callable[[pa.RecordBatch], Sequence[str | None]]
Shares = Mapping[str, Mapping[Any, float]]  # of a table's rows, by column and value


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What one kind of request costs in a step; None is what is not known.

    part: what is asked, where a step asks more than one thing. requests, prompt_tokens: at most. generated_tokens: at
    most, unless `basis` says what they rest on. is_counted: whether the prompts' tokens are those of the model's own
    tokenizer.
    """

    part: str = ""
    model: str
    requests: int | None
    prompt_tokens: int | None
    generated_tokens: int | None
    basis: str = ""
    is_counted: bool = False
    parameters: int | None = None

    @property
    def memory_gb(self) -> float | None:
        """Return the weights' size in bf16; the KV cache comes on top."""
        return None if self.parameters is None else self.parameters * BYTES_PER_PARAMETER / 1e9

    def hours(self, flops: float) -> float | None:
        """Return the hours at `flops` per second: 2 per parameter and token (prompt and generated alike)."""
        if self.parameters is None or self.prompt_tokens is None or self.generated_tokens is None:
            return None
        return 2 * self.parameters * (self.prompt_tokens + self.generated_tokens) / flops / 3600


@dataclass(frozen=True)
class Sample:
    """Texts of rows as a table has them or will have them; is_real: they are rows of that table, not made up."""

    rows: pa.Table
    is_real: bool = False

    def has(self, *columns: str) -> bool:
        return bool(self.rows.num_rows) and set(columns) <= set(self.rows.column_names)


@dataclass(frozen=True)
class Measured:
    """What a finished step took that differs from this one in its rows alone.

    rows: that went into it. kept: of its main table. asked: of all its requests; parts: of those of its rounds, by what
    they asked for. tables: rows by name.
    """

    directory: str
    rows: int
    kept: int
    asked: Asked = NOTHING_ASKED
    parts: Mapping[str, Asked] = field(default_factory=dict)
    tables: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Prospect:
    """What is known of a step before it is done; mappings are by the path of the edge.

    rows: of an input, at most; None where nothing is known. likely: how many it will probably have. tables: those that
    are there. samples: rows like the input's. answers: its column that is read as the answer. models: as Step has them,
    the base in place of one that is to be trained. names: what the recipe calls a model. added: texts that a model to
    be trained gets tokens for. shares: which part of an input's rows has which value. measured: a smaller run of the
    same step. packs: all of the recipe.
    """

    rows: Mapping[str, int | None] = field(default_factory=dict)
    likely: Mapping[str, float | None] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)
    samples: Mapping[str, Sample] = field(default_factory=dict)
    answers: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, EngineConfig | str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    added: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shares: Mapping[str, Shares] = field(default_factory=dict)
    measured: Measured | None = None
    packs: tuple[Pack, ...] = ()

    def counter(self, model: str) -> TokenCounter:
        """Return what counts the prompt tokens of the generator at a path."""
        engine = self.models[model]
        assert isinstance(engine, EngineConfig)
        return token_counter(engine, self.added.get(model, ()))

    @property
    def survival(self) -> float:
        """Return the share of rows that is probably kept: what a smaller run kept, else all."""
        return self.measured.kept / self.measured.rows if self.measured and self.measured.rows else 1.0


@dataclass(frozen=True)
class Outlook:
    """What a step would make and cost.

    rows: of its main table, at most; likely: probably. estimates: one for each kind of request. sample: rows like those
    of its main table. shares: which part of them has which value. notes: what is to be said beside.
    """

    rows: int | None
    estimates: tuple[Estimate, ...] = ()
    likely: float | None = None
    sample: Sample | None = None
    shares: Shares = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def no_cost(config: Any, prospect: Prospect) -> Outlook:
    """Return the outlook of a step that asks no model, and has the rows of its first input, or fewer."""
    path = next(iter(prospect.rows), "")
    return Outlook(prospect.rows.get(path), likely=likely_kept(prospect, path), sample=prospect.samples.get(path))


def likely_kept(prospect: Prospect, path: str) -> float | None:
    """Return how many rows of an input a step probably keeps."""
    rows = prospect.likely.get(path)
    return None if rows is None else rows * prospect.survival


def one_prompt_a_row(
    prospect: Prospect, over: str, prompts: Prompts, max_tokens: int, *, needs: Sequence[str], made: Sample | None
) -> Outlook:
    """Return the outlook of a step that asks its `model` once about every row of the input `over`.

    prompts: renders those of a batch that has the columns `needs`. made: rows like those of the main table.
    """
    rows, likely, sample = prospect.rows.get(over), prospect.likely.get(over), prospect.samples.get(over)
    texts = prompts_of(sample, prompts, needs)
    asked = prospect.measured.asked if prospect.measured else NOTHING_ASKED
    if likely is not None and prospect.measured and prospect.measured.rows:
        likely *= asked.requests / prospect.measured.rows
    estimate = estimated(
        prospect,
        "model",
        texts,
        requests=rows,
        likely=likely,
        max_tokens=max_tokens,
        asked=asked,
        is_real=bool(sample and sample.is_real),
    )
    return Outlook(rows, (estimate,), likely_kept(prospect, over), made)


def part_at_most(rows: int, share: float) -> int:
    """Return how many of rows there are at most, where each is one of them with this probability."""
    return min(rows, math.ceil(rows * share + DEVIATIONS * math.sqrt(rows * share * (1 - share))))


def prompts_of(sample: Sample | None, prompts: Prompts, needs: Sequence[str]) -> list[str]:
    """Return the prompts of a sample's rows; none where it lacks a column."""
    if sample is None or not sample.has(*needs):
        return []
    batches = sample.rows.combine_chunks().to_batches()
    return [prompt for batch in batches for prompt in prompts(batch) if prompt]


def with_answers(prospect: Prospect, path: str, max_tokens: int, answer: str = "response") -> Sample | None:
    """Return rows like an input's with answers that are not there yet.

    They are as long as the longest that the recipe's packs show; without packs, as the sampling allows.
    """
    sample = prospect.samples.get(path)
    if sample is None or not sample.has("question"):
        return None
    shown = [text for pack in prospect.packs for one in pack.demonstrations for text in (one.response, one.correction)]
    text = max(shown, key=len, default=WORD * max_tokens)
    rows = sample.rows.select([name for name in sample.rows.column_names if name != answer])
    return Sample(rows.append_column(answer, pa.array([text] * rows.num_rows)))


def estimated(
    prospect: Prospect,
    model: str,
    prompts: Sequence[str],
    *,
    requests: int | None,
    max_tokens: int | Sequence[int],
    likely: float | None = None,
    part: str = "",
    asked: Asked = NOTHING_ASKED,
    is_real: bool = False,
) -> Estimate:
    """Return the estimate of requests with prompts like these.

    max_tokens: of a completion, or of those to each of the prompts. likely: how many requests there will probably be.
    asked: what such requests took in a smaller run.
    """
    engine, counter = prospect.models[model], prospect.counter(model)
    assert isinstance(engine, EngineConfig)
    limits, basis = [max_tokens] if isinstance(max_tokens, int) else max_tokens, ""
    generated = None if requests is None else sum_at_most(limits, requests, is_real)
    if asked.requests and likely is not None:
        generated = round(likely * asked.completion_tokens / asked.requests)
        basis = f"{asked.requests:,} requests"
    return Estimate(
        part=part,
        model=prospect.names.get(model, engine.model),
        requests=requests,
        prompt_tokens=None if requests is None else sum_at_most(counter(prompts), requests, is_real),
        generated_tokens=generated,
        basis=basis,
        is_counted=counter.is_exact,
        parameters=parameters_of(engine),
    )


def sum_at_most(sizes: Sequence[int], number: int, is_real: bool) -> int | None:
    """Return what so many sizes like these sum up to, at most; None where there is none to go by.

    is_real: they are of the same rows, and all of them or spread over them; else the longest counts for all.
    """
    if not number:
        return 0
    if not sizes:
        return None
    if is_real and len(sizes) == number:
        return sum(sizes)
    if not is_real or len(sizes) < FEW_ROWS:
        return max(sizes) * number
    error = statistics.stdev(sizes) / math.sqrt(len(sizes))
    return math.ceil((statistics.fmean(sizes) + DEVIATIONS * error) * number)


def parameters_of(config: EngineConfig) -> int | None:
    """Return a model's parameters, from its folder's weights or its hub id ('…-8B').

    It is None where neither tells. Raises UsageError where the folder holds no model.
    """
    folder = Path(config.model)
    is_adapter = (folder / "adapter_config.json").is_file()  # whose weights are not the model's
    if config.engine == "vllm" and folder.is_dir() and not is_adapter:
        weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        return weights // (4 if "float32" in str(model_config(folder)) else BYTES_PER_PARAMETER)
    size = re.search(r"(\d+(?:\.\d+)?)\s*([bm])(?![a-z])", config.model.lower())
    if not size:
        return None
    return round(float(size.group(1)) * (1e9 if size.group(2) == "b" else 1e6))
