"""Generate: what it asks, in what order rows leave, and that nothing is asked twice."""

import sys
import threading
from collections import Counter
from itertools import pairwise

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import StageError
from transforms.engines.engine import Completion, EngineConfig, Sampling
from transforms.engines.running import close_engines
from transforms.generation import cache_index, response_cache
from transforms.generation.cache_index import index_array, segment_names
from transforms.generation.generate import Generate, Model, _GenerateFn, requests, with_completions
from transforms.generation.response_cache import close_caches, compact_and_index
from transforms.tables import progress
from transforms.tables.chunks import Chunk
from transforms.tables.identity import sampling_seed

GREEDY = Sampling(max_tokens=8)
SAMPLED = Sampling(max_tokens=8, temperature=1.0)
COLUMNS = ["completion", "reasoning", "finish_reason", "prompt_tokens", "completion_tokens", "error"]


class Script:
    """What the scripted engine was asked, and how many requests it had at once."""

    def __init__(self):
        self.asked = Counter()
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.together = None  # a barrier: so many requests are answered together

    def __call__(self, request):
        with self.lock:
            self.asked[request.prompt, request.seed] += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        if self.together:
            self.together.wait(timeout=30)
        with self.lock:
            self.at_once -= 1
        if request.prompt.startswith("long"):
            return Completion.failed("prompt_too_long: 9 tokens of 8", prompt_tokens=9)
        if request.prompt.startswith("crash"):
            raise StageError("the engine died")
        return f"{request.prompt} / {request.seed}"


script = Script()


def answer(request):
    return script(request)


def engine(**args):
    return EngineConfig(engine="scripted", args={"function": f"{__name__}:answer", **args})


@pytest.fixture(autouse=True)
def fresh_script():
    global script
    script = Script()
    progress.reset("answers")
    yield
    close_engines()
    close_caches()


def table(prompts, **columns):
    return pa.table(
        {"id": [f"id{i}" for i in range(len(prompts))], "prompt": pa.array(prompts, pa.string()), **columns}
    )


def chunks(rows, size, shard=0):
    return [Chunk(shard, start, len(batch), batch) for start, batch in _cut(rows, size)]


def _cut(rows, size):
    start = 0
    for batch in rows.combine_chunks().to_batches(max_chunksize=size):
        yield start, batch
        start += batch.num_rows


left = []


class Keep(beam.DoFn):
    """Appends (chunk, timestamp, window) to `left` of this module, which a pickled closure would hold a copy of."""

    def process(self, chunk, timestamp=beam.DoFn.TimestampParam, window=beam.DoFn.WindowParam):
        sys.modules[__name__].left.append((chunk, float(timestamp), window))


def asking(engine_config=None, sampling=GREEDY):
    return Model(engine=engine_config or engine(), sampling=sampling)


def generate(given, *, engine=None, sampling=GREEDY, **settings):
    settings = {"model": asking(engine, sampling), "step": "answers", "seed": 7, "cache": None, **settings}
    left.clear()
    with beam.Pipeline(runner=FnApiRunner()) as root:
        # One element, hence one bundle, in a known order.
        stream = root | beam.Create([given]) | beam.FlatMap(lambda given: given).with_output_types(Chunk)
        _ = stream | Generate(**settings) | beam.ParDo(Keep())
    return [chunk for chunk, _, _ in left]


def rows_of(out):
    return [row for chunk in out for row in chunk.batch.to_pylist()]


def test_adds_the_columns_of_a_completion():
    marks = {"drop_reason": pa.array([None, None, "too_short", None]), "error": pa.array([None, None, None, "parse"])}
    [chunk] = generate(chunks(table(["a b", None, "c", "d"], **marks), 10))
    assert chunk.batch.select(COLUMNS).to_pylist() == [
        dict(zip(COLUMNS, ["a b / None", None, "stop", 2, 4, None], strict=True)),
        dict.fromkeys(COLUMNS),
        dict.fromkeys(COLUMNS),
        {**dict.fromkeys(COLUMNS), "error": "parse"},
    ]
    assert script.asked == {("a b", None): 1}
    counts = progress.snapshot()["answers"]
    assert (counts.done, counts.cached, counts.generated_tokens) == (4, 0, 4)


def test_a_failed_row_costs_no_other():
    rows = rows_of(generate(chunks(table(["a", "long", "b"]), 10)))
    assert [row["completion"] for row in rows] == ["a / None", None, "b / None"]
    assert [row["finish_reason"] for row in rows] == ["stop", "error", "stop"]
    assert [row["error"] for row in rows] == [None, "prompt_too_long: 9 tokens of 8", None]


def test_a_second_step_replaces_the_columns_of_the_first():
    batch = with_completions(table(["a"]).to_batches()[0], [Completion("first", completion_tokens=1)])
    again = with_completions(batch, [Completion("second", reasoning="why", completion_tokens=2)])
    assert again.schema == batch.schema
    assert again.select(COLUMNS[:2]).to_pylist() == [{"completion": "second", "reasoning": "why"}]


def test_sampling_seeds_come_from_id_step_draw_and_seed():
    batch = table(["p", "p"], draw=[0, 3]).to_batches()[0]
    sampled = asking(sampling=SAMPLED)
    assert [r.seed for r in requests(batch, sampled, "answers", 7).values()] == [
        sampling_seed("id0", "answers", 0, 7),
        sampling_seed("id1", "answers", 3, 7),
    ]
    assert [r.seed for r in requests(batch.drop_columns("draw"), sampled, "answers", 7).values()] == [
        sampling_seed("id0", "answers", 0, 7),
        sampling_seed("id1", "answers", 0, 7),
    ]
    assert [r.seed for r in requests(batch, asking(), "answers", 7).values()] == [None, None]
    members = batch.append_column("member", pa.array(["a", "b"]))
    assert [*requests(members, sampled, "answers b", 7, "b")] == [1]


def test_a_row_may_ask_for_more_tokens_than_the_sampling_says():
    batch = table(["p", "p", "p"], max_tokens=[None, 3, 4000]).to_batches()[0]
    asked = requests(batch, asking(sampling=Sampling(max_tokens=7)), "answers", 7)
    assert [request.sampling.max_tokens for request in asked.values()] == [7, 7, 4000]


def test_equal_requests_are_sent_once_without_a_cache_while_in_flight():
    rows = rows_of(generate(chunks(table(["same"] * 20 + ["other"]), 4), engine=engine(delay_seconds=0.05)))
    assert [row["completion"] for row in rows] == ["same / None"] * 20 + ["other / None"]
    assert script.asked == {("same", None): 1, ("other", None): 1}
    assert progress.snapshot()["answers"].done == 21


def test_chunks_leave_in_order_from_a_full_window():
    prompts = [f"p{i}" for i in range(500)]
    out = generate(
        chunks(table(prompts), 3), engine=engine(delay_seconds=0.0001, threads=16), window_rows=64, window_bytes=2000
    )
    assert [chunk.first_row for chunk in out] == list(range(0, 500, 3))
    assert [row["completion"] for row in rows_of(out)] == [f"{p} / None" for p in prompts]


@pytest.mark.parametrize(("window", "most"), [({"window_rows": 64}, 64), ({"window_bytes": 1}, 30)])
def test_the_window_bounds_what_is_in_flight(window, most):
    script.together = threading.Barrier(10)
    out = generate(
        chunks(table([f"p{i}" for i in range(300)]), 30), engine=engine(delay_seconds=0.0001, threads=400), **window
    )
    assert len(rows_of(out)) == 300
    assert 10 <= script.most_at_once <= most


def test_later_chunks_are_sent_while_earlier_ones_are_answered():
    script.together = threading.Barrier(16)
    generate(chunks(table([f"p{i}" for i in range(64)]), 1), engine=engine(delay_seconds=0.0001, threads=64))
    assert script.most_at_once >= 16


def test_windows_and_timestamps_are_those_of_the_chunk():
    given = chunks(table([f"p{i}" for i in range(6)]), 2)
    left.clear()
    with beam.Pipeline(runner=FnApiRunner()) as root:
        stamped = (
            root
            | beam.Create([given])
            | beam.FlatMap(lambda given: [beam.window.TimestampedValue(c, 100 + c.first_row) for c in given])
        )
        windowed = stamped | beam.WindowInto(beam.window.FixedWindows(3))
        asked = windowed | Generate(asking(engine(delay_seconds=0.01)), "answers", 7, None)
        _ = asked | beam.ParDo(Keep())
    intervals = [(99, 102), (102, 105), (102, 105)]
    assert [(chunk.first_row, timestamp, window) for chunk, timestamp, window in left] == [
        (row, 100 + row, beam.window.IntervalWindow(*interval))
        for row, interval in zip([0, 2, 4], intervals, strict=True)
    ]


def test_answers_are_reused_verbatim(tmp_path):
    given = chunks(table([f"p{i}" for i in range(700)] + ["long"]), 100)
    first = generate(given, cache=str(tmp_path), sampling=SAMPLED)
    asked = script.asked.copy()
    close_caches()
    again = generate(given, cache=str(tmp_path), sampling=SAMPLED)
    assert again == first
    assert script.asked - asked == Counter({key: 1 for key in asked if key[0] == "long"})  # errors are not kept
    assert progress.snapshot()["answers"].cached == 700


def test_another_setting_is_another_request(tmp_path):
    given = chunks(table(["p"]), 1)
    for change in (
        {},
        {"sampling": Sampling(max_tokens=9)},
        {"sampling": Sampling(max_tokens=8, extra={"structured_outputs": {"json": {"type": "object"}}})},
        {"sampling": SAMPLED},
        {"sampling": SAMPLED, "seed": 8},
        {"engine": EngineConfig(engine="scripted", args=engine().args, style="chat")},
        {"engine": EngineConfig(engine="scripted", args=engine().args, model="other weights")},
    ):
        before = script.asked.total()
        generate(given, cache=str(tmp_path), **change)
        assert script.asked.total() == before + 1, change
    generate(given, cache=str(tmp_path))
    assert script.asked.total() == 7


def test_a_bundle_that_is_aborted_and_run_again_asks_nothing_twice(tmp_path):
    prompts = [f"p{i}" for i in range(400)]
    undisturbed = generate(chunks(table(prompts), 7), cache=str(tmp_path / "undisturbed"))
    script.asked.clear()
    with pytest.raises(Exception, match="the engine died"):
        generate(chunks(table([*prompts[:250], "crash", *prompts[250:]]), 7), cache=str(tmp_path / "cache"))
    aborted = script.asked.copy()
    assert aborted.total() >= 251
    again = generate(chunks(table(prompts), 7), cache=str(tmp_path / "cache"))
    assert again == undisturbed
    assert max(script.asked.values()) == 1


def test_a_bundle_that_is_done_has_its_answers_in_the_cache(tmp_path, monkeypatch):
    """A cluster may end the process right then: no teardown, and no time to write."""
    monkeypatch.setattr(_GenerateFn, "teardown", lambda self: None)
    monkeypatch.setattr(response_cache, "FLUSH_SECONDS", 1000.0)
    generate(chunks(table([f"p{n}" for n in range(20)]), 7), cache=str(tmp_path))
    names = segment_names(str(tmp_path))
    assert sum(index_array(str(tmp_path), [name]).shape[1] for name in names) == 20


def test_a_full_disk_stops_the_stage_and_keeps_what_was_written(tmp_path, monkeypatch):

    write, written = cache_index.write_segment, []

    def write_two(path, batches):
        if len(written) == 2:
            raise StageError(f"{path}: no space left on the disk")
        written.append(path)
        write(path, batches)

    monkeypatch.setattr(cache_index, "write_segment", write_two)
    given = chunks(table([f"p{i}" for i in range(3000)]), 100)
    with pytest.raises(Exception, match="no space left on the disk.*all before them are kept"):
        generate(given, cache=str(tmp_path), window_rows=128)
    asked = script.asked.total()
    assert asked < 3000  # it stopped
    assert len(written) == 2
    monkeypatch.undo()
    kept = compact_and_index(str(tmp_path))
    generate(given, cache=str(tmp_path), window_rows=128)
    assert script.asked.total() == asked + 3000 - kept


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 12), max_size=4), temperature=st.sampled_from([0.0, 1.0]))
def test_where_a_batch_is_cut_changes_no_request_and_no_row(cuts, temperature):
    batch = table(
        ["a", "b", None, "a", "c", "d", "e", "f", "g", "h", "long", "z"],
        draw=list(range(12)),
        drop_reason=pa.array([None] * 9 + ["short"] + [None] * 2),
    ).to_batches()[0]
    sampling = Sampling(temperature=temperature)
    pieces = [batch.slice(a, b - a) for a, b in pairwise([0, *sorted(cuts), 12])]

    def asked(piece):
        found = requests(piece, asking(sampling=sampling), "s", 1)
        return [found.get(row) for row in range(piece.num_rows)]

    assert [r for piece in pieces for r in asked(piece)] == asked(batch)

    def answered(piece):
        return with_completions(piece, [r and Completion(r.prompt) for r in asked(piece)])

    assert [row for piece in pieces for row in answered(piece).to_pylist()] == answered(batch).to_pylist()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("size", [1, 7, 100])
def test_neither_shards_nor_workers_change_what_is_asked(size, workers):
    prompts = [f"p{i % 40}" for i in range(100)]
    rows = table(prompts)
    given = chunks(rows.slice(0, 60), size, shard=0) + chunks(rows.slice(60), size, shard=1)
    left.clear()
    options = [f"--direct_num_workers={workers}", "--direct_running_mode=multi_threading"]
    with beam.Pipeline(runner=FnApiRunner(), argv=options) as root:
        asked = root | beam.Create(given) | beam.Reshuffle() | Generate(asking(sampling=SAMPLED), "s", 3, None)
        _ = asked | beam.ParDo(Keep())
    expected = {f"id{i}": f"{p} / {sampling_seed(f'id{i}', 's', 0, 3)}" for i, p in enumerate(prompts)}
    assert {row["id"]: row["completion"] for row in rows_of(chunk for chunk, _, _ in left)} == expected
    assert script.asked == {(p, sampling_seed(f"id{i}", "s", 0, 3)): 1 for i, p in enumerate(prompts)}
