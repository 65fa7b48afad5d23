"""The real vLLM, on a CPU, with a randomly initialised model."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
from random_model import CHAT_TEMPLATE, write_random_model

from schemas.errors import StageError, UsageError
from transforms.engines.engine import EngineConfig, Request, Sampling
from transforms.engines.identity import engine_digest
from transforms.engines.running import close_engines, open_engine
from transforms.engines.vllm_engine import replica_gpus

pytest.importorskip("vllm")

# Room for the keys and values of 65,536 tokens: the default of some GB takes as long to fill as all else of a start.
ARGS = {"dtype": "float32", "max_num_seqs": 8, "kv_cache_memory_bytes": 64 << 20}
SAMPLED = Sampling(max_tokens=12, temperature=1.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_random_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def engine(model):
    yield open_engine(EngineConfig(model=str(model), args=ARGS))
    close_engines()


def answers(engine, requests):
    return [future.result(timeout=300) for future in [engine.submit(request) for request in requests]]


def processes_of(group):
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(entry.name)) == group and "State:\tZ" not in (entry / "status").read_text():
                found.append(int(entry.name))
        except (ProcessLookupError, FileNotFoundError):
            continue
    return found


def host_of(engine):
    return engine._replicas[0]._host._process.pid


def wait_until_it_works(engine):
    deadline = time.monotonic() + 250
    while not engine._replicas[0]._working:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_one_engine_for_a_configuration(engine, model):
    assert open_engine(EngineConfig(model=str(model), args=dict(reversed(ARGS.items())))) is engine
    assert engine.concurrency == 8


def test_a_seed_decides_the_answer_and_its_neighbours_do_not(engine):
    alone = answers(engine, [Request("What is salt?", SAMPLED, 5)])
    among = answers(engine, [Request(f"What is {i}?" * (1 + i % 7), SAMPLED, i) for i in range(40)])
    again = answers(engine, [Request("What is salt?", SAMPLED, 5), Request("What is salt?", SAMPLED, 6)])
    assert again[0] == alone[0]
    assert again[0].text != again[1].text
    assert [done.finish_reason for done in among].count("error") == 0
    assert alone[0].prompt_tokens == len("What is salt?")
    assert 0 < alone[0].completion_tokens <= 12


def test_seeded_prompts_longer_together_than_one_step_holds(engine):
    # 40 × 500 tokens; a step holds 4096: with chunked prefill this ends the engine.
    done = answers(engine, [Request("x" * (480 + i % 20), SAMPLED, i) for i in range(40)])
    assert {one.error for one in done} == {None}


def test_bad_requests_fail_alone(engine):
    good, long, empty, grammar = answers(
        engine,
        [
            Request("fine", SAMPLED, 1),
            Request("x" * 600, SAMPLED, 1),
            Request("", SAMPLED, 1),
            Request("x", Sampling(extra={"structured_outputs": {"regex": "("}}), None),
        ],
    )
    assert good.error is None
    assert (long.text, long.finish_reason) == (None, "error")
    assert long.error == "prompt_too_long: 600 tokens, the model reads 511"
    assert empty.error == "prompt_empty"
    assert grammar.error.startswith("bad_request: ")


def test_sampling_passes_through(engine):
    extra = {"structured_outputs": {"choice": ["yes", "no"]}}
    [choice] = answers(engine, [Request("Well?", Sampling(max_tokens=20, extra=extra), None)])
    assert choice.text in ("yes", "no")
    assert choice.finish_reason == "stop"
    with pytest.raises(UsageError, match="no_such_setting"):
        engine.submit(Request("x", Sampling(extra={"no_such_setting": 1}), None)).result(timeout=60)


def test_a_dead_host_is_replaced_and_nothing_is_lost(engine):
    requests = [Request(f"Question {i}", Sampling(max_tokens=200, temperature=1.0), i) for i in range(30)]
    expected = answers(engine, requests)
    group = host_of(engine)
    futures = [engine.submit(request) for request in requests]
    futures[0].result(timeout=60)
    os.kill(group, signal.SIGKILL)
    assert [future.result(timeout=300) for future in futures] == expected
    assert host_of(engine) != group
    assert processes_of(group) == []


@pytest.mark.slow
def test_a_host_that_hangs_is_replaced(model):
    engine = open_engine(EngineConfig(model=str(model), args=ARGS, stall_seconds=3))
    group = host_of(engine)
    os.kill(group, signal.SIGSTOP)
    [done] = answers(engine, [Request("Hello?", SAMPLED, 1)])
    assert done.error is None
    assert host_of(engine) != group
    assert processes_of(group) == []


def kill_at_work(engine):
    wait_until_it_works(engine)
    group = host_of(engine)
    os.kill(group, signal.SIGKILL)
    while host_of(engine) == group:
        time.sleep(0.05)


def wait_for_one_alone(engine):
    deadline = time.monotonic() + 250
    while engine._replicas[0]._alone is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)


ENDLESS = Sampling(max_tokens=400, extra={"ignore_eos": True})


@pytest.mark.slow
def test_requests_that_end_vllm_again_and_again_are_given_up(model, monkeypatch):
    """A request that is at work whenever vLLM dies is the only one that fails, whatever was at work beside it."""
    monkeypatch.setattr("transforms.engines.vllm_engine.RESENDS", 1)
    engine = open_engine(EngineConfig(model=str(model), args=ARGS, stall_seconds=200))
    first, *others = [engine.submit(Request(f"Hello {number}?", ENDLESS, number)) for number in range(4)]
    kill_at_work(engine)
    wait_for_one_alone(engine)
    assert [number for number, sent in engine._replicas[0]._unanswered.items() if sent.deaths] == [0, 1, 2, 3]
    os.kill(host_of(engine), signal.SIGKILL)
    failed = first.result(timeout=250)
    assert (failed.finish_reason, failed.error) == ("error", "engine_died: 2 times at this row's request")
    assert [other.result(timeout=250).error for other in others] == [None, None, None]
    [done] = answers(engine, [Request("Still there?", SAMPLED, 1)])
    assert done.error is None


@pytest.mark.slow
def test_an_engine_that_dies_on_everything_is_given_up(model, monkeypatch):
    monkeypatch.setattr("transforms.engines.vllm_engine.RESENDS", 1)
    monkeypatch.setattr("transforms.engines.vllm_engine.HOPELESS", 1)
    engine = open_engine(EngineConfig(model=str(model), args=ARGS, stall_seconds=201))
    first, second = [engine.submit(Request(f"Hello {number}?", ENDLESS, number)) for number in range(2)]
    kill_at_work(engine)
    wait_for_one_alone(engine)
    os.kill(host_of(engine), signal.SIGKILL)
    assert first.result(timeout=60).error.startswith("engine_died")
    for future in (second, engine.submit(Request("Still there?", SAMPLED, 1))):
        with pytest.raises(StageError, match="vLLM died at 1 requests in a row"):
            future.result(timeout=60)


def test_nothing_outlives_a_killed_parent(model, tmp_path):
    script = textwrap.dedent(
        f"""
        import threading, time
        from transforms.engines.engine import EngineConfig, Request, Sampling
        from transforms.engines.running import open_engine
        config = EngineConfig(model={str(model)!r}, args={ARGS!r})
        # Opened in a thread that ends, as Beam's do: the engine belongs to the process.
        opener = threading.Thread(target=open_engine, args=(config,)); opener.start(); opener.join()
        engine = open_engine(config)
        endless = Sampling(max_tokens=400, temperature=1.0, extra={{"ignore_eos": True}})
        for i in range(200):
            engine.submit(Request(f"Q{{i}}", endless, i))
        print(engine._replicas[0]._host._process.pid, flush=True)
        time.sleep(600)
        """
    )
    root = Path(__file__).parents[3]
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    group = int(parent.stdout.readline())
    assert group in processes_of(group)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 10
    while processes_of(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_of(group) == []


def test_a_folder_that_is_not_a_model_is_refused_before_anything_starts(tmp_path, model):
    for name, content, message in (
        ("empty", {}, "empty: not a model folder: it has no \\*.safetensors"),
        ("unweighted", {"config.json": "{}"}, "unweighted: not a model folder: it has no \\*.safetensors"),
        ("bare", {"model.safetensors": ""}, "bare: not a model folder: it has no config.json"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        for file, text in content.items():
            (folder / file).write_text(text)
        with pytest.raises(UsageError, match=message):
            open_engine(EngineConfig(model=str(folder)))
    with pytest.raises(UsageError, match="/nowhere/model: no such model folder"):
        open_engine(EngineConfig(model="/nowhere/model"))


def test_a_model_that_does_not_load_is_reported_with_vllms_log(tmp_path, model):
    for file in model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((model / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["NoSuchModel"], "model_type": "x"}))
    with pytest.raises(UsageError, match="vLLM could not load it(.|\n)*the end of vLLM's log:\n  \\| "):
        open_engine(EngineConfig(model=str(tmp_path), args=ARGS))


def test_chat_style_needs_a_template(model):
    with pytest.raises(UsageError, match="engine.style = 'chat': .* has no chat template"):
        open_engine(EngineConfig(model=str(model), args=ARGS, style="chat"))


def test_chat_style(tmp_path):
    folder = write_random_model(tmp_path, CHAT_TEMPLATE)
    args = {name: value for name, value in ARGS.items() if name != "kv_cache_memory_bytes"}  # as users have it
    config = EngineConfig(model=str(folder), args=args, style="chat", chat_template_kwargs={"thinking": True})
    extra = {"structured_outputs": {"choice": ["Hm, salt.</think>Yes."]}}
    requests = [Request("Salt?", Sampling(max_tokens=tokens, extra=extra), None) for tokens in (40, 9)]
    thought, unended = answers(open_engine(config), requests)
    assert thought.prompt_tokens == len("<user>Salt?<assistant>") + 1
    assert (thought.reasoning, thought.text, thought.finish_reason) == ("Hm, salt.", "Yes.", "stop")
    assert (unended.reasoning, unended.text, unended.finish_reason) == ("Hm, salt.", "", "length")


@pytest.mark.slow
def test_a_reasoning_parser_of_vllms_parts_the_text(tmp_path):
    folder = write_random_model(tmp_path, CHAT_TEMPLATE)
    end = json.loads((folder / "tokenizer.json").read_text())["added_tokens"][-1]["id"]
    config = EngineConfig(model=str(folder), args=ARGS | {"reasoning_parser": "deepseek_r1"}, style="chat")
    # With a parser vLLM leaves the reasoning free and holds only what follows to the structure.
    structure = {"structured_outputs": {"choice": ["Yes."]}}
    requests = [
        Request("Salt?", Sampling(max_tokens=20, extra=structure | {"logit_bias": {end: 100}}), None),
        Request("Salt?", Sampling(max_tokens=20, extra=structure | {"logit_bias": {end: -100}}), None),
    ]
    ended, unended = answers(open_engine(config), requests)
    assert (ended.text, ended.finish_reason) == ("Yes.", "stop")
    assert (unended.text, unended.finish_reason) == ("", "length")
    assert unended.reasoning


@pytest.mark.slow
def test_adapters_answer_on_top_of_their_base(engine, model, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folders = [str(tmp_path / name) for name in ("one", "two")]
    request, expected = Request("What is salt?", Sampling(max_tokens=12), None), []
    tokenizer = AutoTokenizer.from_pretrained(model)
    prompt = tokenizer(request.prompt, return_tensors="pt", return_token_type_ids=False)
    for folder, rank, targets in zip(folders, (4, 16), (["q_proj", "v_proj"], "all-linear"), strict=True):
        lora = LoraConfig(r=rank, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
        adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(model), lora)
        adapted.save_pretrained(folder)
        tokens = adapted.merge_and_unload().generate(**prompt, max_new_tokens=12, do_sample=False)
        text = tokenizer.decode(tokens[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        expected.append(text.rstrip("\ufffd"))  # of bytes that are no letter yet, vLLM says nothing
    first = EngineConfig(model=folders[0], args=ARGS)
    adapted = open_engine(first)
    assert engine_digest(first) != engine_digest(EngineConfig(model=str(model), args=ARGS))
    [alone], [plain] = answers(adapted, [request]), answers(engine, [request])
    assert alone.error is None
    assert alone.text != plain.text
    config = EngineConfig(model=str(model), adapters=tuple(folders), args=ARGS)
    among_others = [replace(request, adapter=adapter) for adapter in (*folders, "")]
    one, two, without = answers(open_engine(config), among_others)
    assert [one.text, two.text, without.text] == [*expected, plain.text]
    assert one.text == alone.text
    assert engine_digest(config, folders[0]) == engine_digest(first)
    with pytest.raises(UsageError, match="engine.adapters: .* is no LoRA adapter of"):
        open_engine(EngineConfig(model=str(model), adapters=(str(model),), args=ARGS))


def test_a_model_is_replicated_over_the_gpus_it_does_not_need():
    assert replica_gpus({}, []) == [None]
    assert replica_gpus({}, ["0"]) == [None]
    assert replica_gpus({}, ["0", "1", "5"]) == ["0", "1", "5"]
    assert replica_gpus({"tensor_parallel_size": 2}, ["0", "1", "2", "3", "4"]) == ["0,1", "2,3"]
    assert replica_gpus({"tensor_parallel_size": 4}, ["0", "1", "2", "3"]) == [None]
