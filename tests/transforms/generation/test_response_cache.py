"""The response cache: what was put is found, by whoever looks and whatever happened to the files."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.engines.engine import Completion, Sampling
from transforms.generation import cache_index, response_cache
from transforms.generation.response_cache import (
    FLUSH_ROWS,
    ResponseCache,
    _to_batch,
    close_caches,
    compact_and_index,
    open_cache,
    request_context,
    request_key,
)
from transforms.tables import storage


def key(number):
    return request_key(f"prompt {number}", None, "context")


def completion(number):
    return Completion(f"answer {number} ü", f"because {number}", "stop", number, number + 1)


@pytest.fixture(autouse=True)
def closed_caches():
    yield
    close_caches()


@pytest.fixture
def cache(tmp_path):
    cache = ResponseCache(str(tmp_path))
    yield cache
    cache.close()


def segments(folder):
    return sorted(path for path in Path(folder).iterdir() if path.suffix == ".arrow")


def filled(folder, *groups):
    """A cache directory with one segment per group of numbers."""
    cache = ResponseCache(str(folder))
    for group in groups:
        for number in group:
            cache.put(key(number), completion(number))
        cache.flush()
    cache.close()
    return segments(folder)


def found(folder, numbers):
    cache = ResponseCache(str(folder))
    try:
        return [number for number, one in zip(numbers, cache.lookup([key(n) for n in numbers]), strict=True) if one]
    finally:
        cache.close()


def test_what_was_put_is_found_before_and_after_it_is_written(cache, tmp_path):
    cache.put(key(1), completion(1))
    assert cache.lookup([key(1), key(2)]) == [completion(1), None]
    assert segments(tmp_path) == []
    cache.flush()
    assert cache.lookup([key(1), key(2)]) == [completion(1), None]
    assert len(segments(tmp_path)) == 1
    assert ResponseCache(str(tmp_path)).lookup([key(2), key(1)]) == [None, completion(1)]


def test_own_segments_are_found_however_they_are_merged(cache, monkeypatch):
    monkeypatch.setattr(response_cache, "MERGED_KEYS", 8)
    for number in range(0, 60, 2):
        for one in (number, number + 1):
            cache.put(key(one), completion(one))
        cache.flush()
    lengths = [array.shape[1] for array in cache._levels]
    assert max(lengths) <= 8
    assert len(lengths) < 20
    assert sum(lengths) == 60
    assert cache.lookup([key(number) for number in range(61)]) == [*map(completion, range(60)), None]


def test_no_key_no_answer(cache):
    assert cache.lookup([]) == []


def test_failures_are_not_kept(cache):
    cache.put(key(1), Completion.failed("server_error: 503"))
    assert cache.lookup([key(1)]) == [None]


def test_the_key_holds_all_that_decides_an_answer():
    contexts = [
        request_context(sampling, digest)
        for sampling in (Sampling(), Sampling(stop=["\n"]), Sampling(extra={"min_p": 0.1}))
        for digest in ("weights", "other weights")
    ]
    keys = {
        request_key(prompt, seed, context) for prompt in ("a", "b") for seed in (None, 0, 1) for context in contexts
    }
    assert len(keys) == 2 * 3 * 6
    assert request_context(Sampling(stop="\n"), "w") == request_context(Sampling(stop=("\n",)), "w")


def test_it_writes_by_itself_and_waits_for_the_disk(cache, tmp_path, monkeypatch):
    """Never are more than FLUSH_ROWS unwritten, however slow the disk."""
    most = []
    write = cache_index.write_segment

    def slowly(path, batches):
        most.append(len(cache._unwritten))
        write(path, batches)

    monkeypatch.setattr(cache_index, "write_segment", slowly)
    for number in range(5 * FLUSH_ROWS):
        cache.put(key(number), completion(number))
        assert len(cache._unwritten) <= FLUSH_ROWS
    assert len(segments(tmp_path)) >= 4
    assert max(most) <= FLUSH_ROWS


def test_a_killed_process_loses_at_most_what_one_flush_holds(tmp_path):
    script = textwrap.dedent(
        f"""
        from transforms.engines.engine import Completion
        from transforms.generation.response_cache import open_cache, request_key
        cache = open_cache({str(tmp_path)!r})
        for number in range(10**9):
            cache.put(request_key(f"prompt {{number}}", None, "context"), Completion("x", None, "stop", 1, 1))
            print(number, flush=True)
        """
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    writer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
    for line in writer.stdout:
        if int(line) == 3000:
            writer.send_signal(signal.SIGKILL)
            break
    put = 3001 + sum(1 for line in writer.stdout if line.endswith("\n"))
    writer.wait()
    kept = compact_and_index(str(tmp_path))
    assert put - FLUSH_ROWS <= kept <= put + 1
    assert found(tmp_path, range(kept)) == list(range(kept))


def test_small_segments_are_merged_and_indexed(tmp_path):
    filled(tmp_path, range(10), range(10, 700), range(700, 1500))
    assert compact_and_index(str(tmp_path)) == 1500
    [merged] = segments(tmp_path)
    with cache_index.open_segment(str(tmp_path), merged.name) as reader:
        assert reader.num_record_batches >= 2  # so that little is decoded at once
    assert found(tmp_path, range(1600)) == list(range(1500))
    before = sorted(os.listdir(tmp_path))
    assert compact_and_index(str(tmp_path)) == 1500
    assert sorted(os.listdir(tmp_path)) == before  # nothing new, nothing done


def test_large_segments_stay_as_they_are(tmp_path, monkeypatch):
    first, second = filled(tmp_path, range(400), range(400, 410))
    monkeypatch.setattr(cache_index, "SMALL_BYTES", second.stat().st_size)
    assert compact_and_index(str(tmp_path)) == 410
    assert segments(tmp_path) == [first, second]


def test_an_index_is_extended_by_the_segments_that_are_new(tmp_path, monkeypatch):
    first, second, _ = filled(tmp_path, range(400), range(400, 800), range(800, 810))
    monkeypatch.setattr(cache_index, "SMALL_BYTES", min(first.stat().st_size, second.stat().st_size) - 1)
    assert compact_and_index(str(tmp_path)) == 810
    opened, open_segment = [], cache_index.open_segment
    monkeypatch.setattr(
        cache_index, "open_segment", lambda d, name, **more: opened.append(name) or open_segment(d, name, **more)
    )
    filled(tmp_path, [5, 805, *range(810, 830)])
    assert compact_and_index(str(tmp_path)) == 830
    assert not {first.name, second.name} & set(opened)
    monkeypatch.undo()
    assert found(tmp_path, range(900)) == list(range(830))
    [one] = ResponseCache(str(tmp_path)).lookup([key(5)])
    assert one == completion(5)


def test_merged_segments_are_bounded(tmp_path, monkeypatch):
    sizes = [path.stat().st_size for path in filled(tmp_path, *[range(10 * i, 10 * i + 10) for i in range(6)])]
    monkeypatch.setattr(cache_index, "MERGED_BYTES", 2 * max(sizes))
    assert compact_and_index(str(tmp_path)) == 60
    assert len(segments(tmp_path)) == 3


@pytest.mark.parametrize("compact", [False, True])
def test_the_lowest_segment_name_wins_a_double(tmp_path, compact):
    for name, text in (("2-b.arrow", "second"), ("1-a.arrow", "first"), ("3-c.arrow", "third")):
        batch = _to_batch({key(1): Completion(text)})
        cache_index.write_segment(storage.join(str(tmp_path), name), [batch])
    if compact:
        assert compact_and_index(str(tmp_path)) == 1
    [one] = ResponseCache(str(tmp_path)).lookup([key(1)])
    assert one.text == "first"


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def overwrite(path):
    data = bytearray(path.read_bytes())
    data[200:-200] = os.urandom(len(data) - 400)
    path.write_bytes(data)


def replace_by_text(path):
    path.write_text("not an Arrow file at all\n" * 10)


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("damage", [cut, empty, overwrite, replace_by_text])
def test_a_damaged_segment_is_named_and_passed_over(tmp_path, damage, compact, caplog):
    _, second, _ = filled(tmp_path, range(10), range(10, 20), range(20, 30))
    damage(second)
    if compact:
        compact_and_index(str(tmp_path))
    assert found(tmp_path, range(30)) == [*range(10), *range(20, 30)]
    assert any(second.name in record.getMessage() for record in caplog.records)
    assert second.exists()


def test_a_segment_that_breaks_after_it_was_indexed_is_passed_over(tmp_path, caplog):
    filled(tmp_path, range(10))
    compact_and_index(str(tmp_path))
    [segment] = segments(tmp_path)
    overwrite(segment)
    assert found(tmp_path, range(10)) == []
    assert segment.name in caplog.text


@pytest.mark.parametrize("damage", [cut, empty, replace_by_text])
@pytest.mark.parametrize("which", ["index.json", "index-*.npy"])
def test_a_damaged_index_is_made_anew(tmp_path, damage, which):
    filled(tmp_path, range(10), range(10, 20))
    compact_and_index(str(tmp_path))
    [path] = tmp_path.glob(which)
    damage(path)
    assert found(tmp_path, range(20)) == list(range(20))
    assert compact_and_index(str(tmp_path)) == 20
    assert found(tmp_path, range(20)) == list(range(20))


def test_segments_merged_by_another_task_are_found_again(tmp_path):
    filled(tmp_path, range(10))
    reader = ResponseCache(str(tmp_path))
    reader.put(key(50), completion(50))
    reader.flush()
    filled(tmp_path, range(10, 20))
    compact_and_index(str(tmp_path))
    assert len(segments(tmp_path)) == 1
    numbers = [0, 9, 10, 50, 99]
    assert reader.lookup([key(n) for n in numbers]) == [*(completion(n) for n in numbers[:4]), None]
    reader.close()


def test_compacting_in_the_same_process_reopens_the_cache(tmp_path):
    before = open_cache(str(tmp_path))
    before.put(key(1), completion(1))
    assert compact_and_index(str(tmp_path)) == 1
    after = open_cache(str(tmp_path))
    assert after is not before
    assert after.lookup([key(1)]) == [completion(1)]
    before.put(key(2), completion(2))  # an answer that comes late
    assert compact_and_index(str(tmp_path)) == 2
    assert found(tmp_path, [1, 2]) == [1, 2]


def test_any_store_will_do():
    folder = "memory://response-cache"
    cache = ResponseCache(folder)
    for number in range(300):
        cache.put(key(number), completion(number))
    cache.close()
    assert compact_and_index(folder) == 300
    assert found(folder, range(310)) == list(range(300))


def test_keys_that_share_their_first_half_are_told_apart():
    halves = np.array([[7, 1], [7, 5], [7, 3], [9, 3]], np.uint64)
    array = cache_index.sorted_array(halves, np.arange(4, dtype=np.uint64))
    wanted = np.array([[7, 3], [7, 2], [9, 3], [7, 1], [7, 9], [10, 0]], np.uint64)
    rows, addresses = cache_index.match_keys(array, wanted.ravel())
    assert dict(zip(rows, addresses, strict=True)) == {0: 2, 2: 3, 3: 0}


def test_of_equal_keys_the_lowest_address_stays():
    halves = np.array([[5, 2], [3, 1], [5, 2]], np.uint64)
    array = cache_index.sorted_array(halves, np.array([8, 7, 6], np.uint64))
    assert array.tolist() == [[3, 5], [1, 2], [7, 6]]


def test_an_address_is_a_segment_a_batch_and_a_row():
    addresses = cache_index.addresses_of(1, 2, 3).tolist()
    assert addresses == [0x10000200000, 0x10000200001, 0x10000200002]
    assert [cache_index.parts_of(address) for address in addresses] == [(1, 2, 0), (1, 2, 1), (1, 2, 2)]


def test_opening_a_large_cache_costs_nothing(tmp_path):
    keys = np.random.default_rng(0).integers(0, 2**63, (1_000_000, 2)).astype(np.uint64)
    index = cache_index.Index(["a.arrow"], cache_index.sorted_array(keys, np.arange(len(keys), dtype=np.uint64)))
    cache_index.save_index(str(tmp_path), index)
    tracemalloc.start()
    opened = cache_index.load_index(str(tmp_path))
    rows, addresses = cache_index.match_keys(opened.array, keys[[5, 500_000]].ravel())
    _, most_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert dict(zip(rows, addresses, strict=True)) == {0: 5, 1: 500_000}
    assert most_bytes < 200_000


def test_the_index_is_replaced_whole(tmp_path):
    filled(tmp_path, range(10))
    compact_and_index(str(tmp_path))
    filled(tmp_path, range(10, 20))
    compact_and_index(str(tmp_path))
    [array] = tmp_path.glob("index-*.npy")
    assert json.loads((tmp_path / "index.json").read_text())["array"] == array.name


steps = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 20), st.text(max_size=3)),
    st.tuples(st.sampled_from(["flush", "compact", "reopen"])),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(steps, max_size=25))
def test_a_cache_is_a_dictionary_in_which_the_first_answer_stays(tmp_path_factory, steps):
    folder = str(tmp_path_factory.mktemp("cache"))
    cache, expected = ResponseCache(folder), {}
    for step in steps:
        if step[0] == "put":
            _, number, text = step
            cache.put(key(number), Completion(text))
            expected.setdefault(number, text)
        elif step[0] == "flush":
            cache.flush()
        else:
            cache.close()
            if step[0] == "compact":
                compact_and_index(folder)
            cache = ResponseCache(folder)
        kept = cache.lookup([key(number) for number in range(22)])
        assert {number: one.text for number, one in enumerate(kept) if one} == expected
    cache.close()
