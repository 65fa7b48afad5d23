"""Configurations, the scripted engine, weights and reasoning: what needs neither a model nor a server."""

import json
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from schemas.errors import UsageError
from transforms.engines.engine import Completion, EngineConfig, Request, Sampling
from transforms.engines.identity import engine_digest
from transforms.engines.reasoning import split_reasoning
from transforms.engines.running import close_engines, open_engine
from transforms.engines.weights import find_weights, has_chat_template

MODEL = {"engine": "vllm", "model": "m"}


def answer(request):
    if request.prompt == "fail":
        return Completion.failed("prompt_too_long: 9 tokens")
    return request.prompt.upper()


def scripted(**args):
    return EngineConfig(engine="scripted", args={"function": f"{__name__}:answer", **args})


@pytest.fixture(autouse=True)
def closed_engines():
    yield
    close_engines()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "gpt"}, "engine.engine = 'gpt': must be one of vllm, server, scripted"),
        ({**MODEL, "style": "prose"}, "engine.style = 'prose': must be one of completion, chat"),
        ({"engine": "vllm"}, "engine.model = '': must name a model"),
        ({**MODEL, "args": {"trust_remote_code": True}}, "trust_remote_code = True: is refused"),
        ({**MODEL, "args": {"model": "other"}}, "engine.args.model = 'other': belongs in engine.model"),
        ({**MODEL, "concurrency": 0}, "engine.concurrency = 0: must be at least 1"),
        ({**MODEL, "timeout_seconds": 0}, "engine.timeout_seconds = 0: must be above 0"),
        ({**MODEL, "stall_seconds": -1}, "engine.stall_seconds = -1: must be above 0"),
        ({"engine": "server", "model": "m"}, "engine.base_url = None: must be an http(s) URL"),
        ({"engine": "server", "model": "m", "base_url": "localhost:80"}, "engine.base_url = 'localhost:80'"),
        (
            {"engine": "server", "model": "m", "base_url": "http://localhost", "args": {"dtype": "auto"}},
            "engine.args = {'dtype': 'auto'}: are a local vLLM's",
        ),
        ({**MODEL, "args": {"hf_token": "hf_private"}}, "engine.args.hf_token = '…': is a secret"),
        ({"engine": "server", "model": "m", "base_url": "http://me:private@host/v1"}, "may hold no password"),
        ({"engine": "scripted"}, "engine.args.function = None: must be 'module:function'"),
    ],
)
def test_a_wrong_engine_is_refused(settings, message):
    with pytest.raises(UsageError) as refused:
        EngineConfig(**settings)
    assert message in str(refused.value)
    assert "private" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_tokens": 0}, "sampling.max_tokens = 0"),
        ({"temperature": -0.1}, "sampling.temperature = -0.1"),
        ({"top_p": 0}, "sampling.top_p = 0"),
        ({"top_p": 1.1}, "sampling.top_p = 1.1"),
        ({"repetition_penalty": 0}, "sampling.repetition_penalty = 0"),
        ({"stop": ["a", ""]}, "sampling.stop = ('a', '')"),
        ({"extra": {"n": 2, "seed": 1, "min_p": 0.1}}, "sampling.extra = ['n', 'seed']"),
    ],
)
def test_wrong_sampling_is_refused(settings, message):
    with pytest.raises(UsageError) as refused:
        Sampling(**settings)
    assert message in str(refused.value)


def test_stop_may_be_one_string_or_a_list():
    assert Sampling(stop="end").stop == ("end",)
    assert Sampling(stop=["a", "b"]) == Sampling(stop=("a", "b"))


def test_the_scripted_engine_answers():
    engine = open_engine(scripted())
    assert engine.submit(Request("hi there", Sampling())).result() == Completion("HI THERE", None, "stop", 2, 2)
    assert engine.submit(Request("fail", Sampling())).result().error == "prompt_too_long: 9 tokens"


def test_the_scripted_engine_can_be_slow():
    engine = open_engine(scripted(delay_seconds=0.01, threads=8))
    futures = [engine.submit(Request(f"p{i}", Sampling())) for i in range(30)]
    assert not futures[-1].done()
    assert [future.result().text for future in futures] == [f"P{i}" for i in range(30)]


def test_a_script_that_is_not_there_is_refused():
    for function in ("no_such_module:answer", f"{__name__}:no_such_function"):
        with pytest.raises(UsageError, match="there is no such function"):
            open_engine(EngineConfig(engine="scripted", args={"function": function}))


def test_threads_share_one_engine_until_it_is_closed():
    engines = []
    threads = [threading.Thread(target=lambda: engines.append(open_engine(scripted()))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(engine) for engine in engines}) == 1
    assert open_engine(scripted(threads=5)) is not engines[0]
    close_engines()
    assert open_engine(scripted()) is not engines[0]


def test_configurations_travel():
    config = EngineConfig(**MODEL, args={"dtype": "float32"})
    assert pickle.loads(pickle.dumps(config)) == config
    assert pickle.loads(pickle.dumps(Sampling(stop=["x"]))) == Sampling(stop=["x"])


def test_engines_need_neither_beam_nor_a_model_library():
    script = (
        "import sys, transforms.engines.engine, transforms.engines.scripted, transforms.engines.server,"
        " transforms.engines.vllm_engine, transforms.engines.vllm_host;"
        "print([m for m in ('apache_beam', 'torch', 'vllm', 'transformers', 'openai') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout == "[]\n"


@pytest.mark.parametrize(
    ("text", "opened", "parts"),
    [
        ("Yes.", False, ("Yes.", None)),
        ("<think>\nHm.\n</think>\n\nYes.", False, ("Yes.", "Hm.")),
        ("Hm.\n</think>\n\nYes.", False, ("Yes.", "Hm.")),
        ("Hm.</think>Yes.", True, ("Yes.", "Hm.")),
        ("Hm", True, ("", "Hm")),
        ("\n<think>Hm", False, ("", "Hm")),
        ("<think></think>Yes.", False, ("Yes.", "")),
        ("a</think>b</think>c", False, ("c", "a</think>b")),
        ("", False, ("", None)),
    ],
)
def test_reasoning_is_kept_apart(text, opened, parts):
    assert split_reasoning(text, opened) == parts


def model_folder(folder, weights=b"weights", **config):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "tokenizer.json").write_text("{}")
    return folder


def digest(folder):
    return find_weights(str(folder)).digest


def test_the_digest_is_that_of_the_content(tmp_path):
    folder = model_folder(tmp_path / "a")
    first = digest(folder)
    assert len(first) == 32
    assert digest(model_folder(tmp_path / "b")) == first  # wherever it lies
    (folder / "README.md").write_text("a card")
    (folder / "trainer_state.json").write_text("{}")
    assert digest(folder) == first
    for name, content in (("model.safetensors", b"WEIGHTS"), ("tokenizer.json", b"[]"), ("config.json", b"{}")):
        before = digest(folder)
        (folder / name).write_bytes(content)
        assert digest(folder) != before
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    assert digest(folder) != before


def test_an_adapter_names_its_base_and_counts(tmp_path):
    base = model_folder(tmp_path / "base")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base), "r": 8}))
    with pytest.raises(UsageError, match="adapter: not a model folder: it has no \\*.safetensors"):
        find_weights(str(adapter))
    (adapter / "adapter_model.safetensors").write_bytes(b"a")
    found = find_weights(str(adapter))
    assert (found.model, found.adapter) == (str(base), str(adapter))
    assert found.digest != digest(base)
    (adapter / "adapter_model.safetensors").write_bytes(b"bb")
    assert digest(adapter) != found.digest


def test_a_hub_id_stands_for_itself():
    found = find_weights("some-one/some-model")
    assert (found.model, found.adapter) == ("some-one/some-model", None)
    assert find_weights("some-one/some-model", "v2").digest != found.digest


def test_what_only_makes_it_faster_is_not_in_the_digest():
    def digest(**settings):
        return engine_digest(EngineConfig(**{"model": "a/b", **settings}))

    assert digest(args={"max_num_seqs": 5, "tensor_parallel_size": 2}, stall_seconds=5) == digest()
    changes = [
        {"model": "a/c"},
        {"style": "chat"},
        {"args": {"dtype": "float32"}},
        {"args": {"revision": "v2"}},
        {"chat_template_kwargs": {"thinking": False}},
        {"engine": "server", "base_url": "http://localhost:1"},
    ]
    assert len({digest(), *(digest(**change) for change in changes)}) == len(changes) + 1


def test_whether_a_folder_has_a_chat_template(tmp_path):
    folder = model_folder(tmp_path / "a")
    assert not has_chat_template(str(folder))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    assert has_chat_template(str(folder))
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert has_chat_template(str(folder))
    assert has_chat_template("some-one/some-model")
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").write_text("[]")
    with pytest.raises(UsageError, match=r"tokenizer_config\.json: expected a JSON object"):
        has_chat_template(str(folder))
