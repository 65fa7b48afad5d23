"""What a file may say of models, at any depth; what the user types may say more."""

import importlib.util
from pathlib import Path

import pytest
import yaml

from pipelines.commands import align, run
from pipelines.recipe.graph import Told, read_graph
from pipelines.recipe.registry import STAGES
from schemas.errors import UsageError
from schemas.file_settings import ENGINE_ARGS, SAMPLING_EXTRA, check_settings
from schemas.settings import parse_assignments

RECIPE = """\
name: r
models: {{teacher: {{model: m, args: {args}}}}}
steps: {{questions: {{stage: questions, model: teacher, pack: ethical}}}}
"""


def refused(values: dict, typed: bool = False) -> str:
    with pytest.raises(UsageError) as error:
        check_settings("f.yaml", values, typed=typed)
    return str(error.value)


@pytest.mark.parametrize(
    "args",
    [
        {"dtype": "bfloat16", "max_model_len": 8192, "enforce_eager": True, "quantization": "fp8", "revision": "v1.0"},
        {"kv_cache_dtype": "fp8_e4m3", "reasoning_parser": "deepseek_r1", "attention_backend": "FLASH_ATTN"},
        {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 4}},
        {"compilation_config": {"mode": 0, "cudagraph_capture_sizes": [1, 2]}, "seed": None},
        {"structured_outputs_config": {"backend": "xgrammar"}, "distributed_executor_backend": "mp"},
    ],
)
def test_plain_data_passes_from_a_file(args):
    check_settings("f.yaml", {"models": {"teacher": {"args": args}}}, typed=False)


@pytest.mark.parametrize(
    ("args", "key"),
    [
        *(
            ({name: value}, name)
            for name, value in {
                "reasoning_parser_plugin": "x.py",
                "worker_cls": "x.Worker",
                "worker_extension_cls": "x.Worker",
                "scheduler_cls": "x.Scheduler",
                "logits_processors": ["x.Processor"],
                "distributed_executor_backend": "x.Executor",
                "chat_template": "/etc/passwd",
                "io_processor_plugin": "x",
                "model_class_overrides": {"LlamaForCausalLM": "x:Model"},
                "profiler_config": {"torch_profiler_dir": "/tmp/x"},
                "log_config_file": "/tmp/x",
                "download_dir": "/tmp/x",
                "tokenizer": "/tmp/x",
                "hf_config_path": "/tmp/x",
                "hf_overrides": {"auto_map": {}},
                "additional_config": {"x": 1},
                "kv_events_config": {"endpoint": "tcp://elsewhere:1"},
                "otlp_traces_endpoint": "http://elsewhere",
                "data_parallel_address": "elsewhere",
                "an_argument_of_a_later_version": 1,
                "reasoning_parser": "x.parser",
                "quantization": "/tmp/x",
                "attention_backend": "x.Backend",
                "load_format": "tensorizer",
                "generation_config": "/tmp/x",
                "dtype": 5,
                "max_model_len": "many",
                "compilation_config": '{"backend": "x.backend"}',
            }.items()
        ),
        ({"chat_template": "{{ messages }}"}, "chat_template"),
        ({"load_format": "auto"}, "load_format"),
        ({"kv_transfer_config": {"kv_connector_module_path": "x"}}, "kv_transfer_config"),
        ({"compilation_config": {"backend": "x.backend"}}, "compilation_config.backend"),
        ({"compilation_config": {"inductor_compile_config": {"cpp.cxx": "x"}}}, "compilation_config.inductor_compile"),
        ({"compilation_config": {"cache_dir": "/tmp/x"}}, "compilation_config.cache_dir"),
        ({"compilation_config": {"pass_config": {"x": 1}}}, "compilation_config.pass_config"),
        ({"speculative_config": {"model": "x"}}, "speculative_config.model"),
        ({"speculative_config": {"method": "custom_class"}}, "speculative_config.method"),
        ({"structured_outputs_config": {"reasoning_parser_plugin": "x.py"}}, "structured_outputs_config.reasoning"),
        ({"attention_config": {"backend": "x.Backend"}}, "attention_config.backend"),
    ],
)
def test_what_may_load_code_or_read_files_is_refused_at_every_depth(args, key):
    assert f"models.teacher.args.{key}" in (text := refused({"models": {"teacher": {"args": args}}}))
    assert text.startswith("f.yaml: ")
    assert f"type it: --set models.teacher.args.{key}" in text
    assert f"stages_of.ethical.x.args.{key}" in refused({"stages_of": {"ethical": {"x": {"args": args}}}})
    assert f"members.1.engine.args.{key}" in (text := refused({"members": [{}, {"engine": {"args": args}}]}))
    assert f"--set engine.args.{key}" in text
    check_settings("--set", {"models": {"teacher": {"args": args}}}, typed=True)


@pytest.mark.parametrize(
    ("extra", "key"),
    [
        ({"logits_processors": ["x"]}, "logits_processors"),
        ({"extra_args": {"kv_transfer_params": {}}}, "extra_args"),
        ({"structured_outputs": {"_backend": "x"}}, "structured_outputs._backend"),
        ({"logit_bias": {"5": "x"}}, "logit_bias"),
        ({"reasoning_effort": "a/path"}, "reasoning_effort"),
    ],
)
def test_sampling_is_as_plain(extra, key):
    compare = {"stages": {"align": {"compare": {"sampling": {"extra": extra}}}}}
    assert f"stages.align.compare.sampling.extra.{key}" in refused(compare)
    check_settings("--set", compare, typed=True)
    plain = {
        "top_k": 5,
        "logit_bias": {7: -1.0},
        "bad_words": ["a b"],
        "structured_outputs": {"json": {"type": "null"}},
    }
    check_settings("f.yaml", {"sampling": {"extra": plain}}, typed=False)


def test_switches_of_a_chat_template_are_no_texts():
    check_settings("f.yaml", {"chat_template_kwargs": {"enable_thinking": False, "effort": "low"}}, typed=False)
    for value in ("{{ messages }}", {"a": 1}, ["a"], "/etc/passwd"):
        assert "chat_template_kwargs" in refused({"chat_template_kwargs": {"chat_template": value}})


@pytest.mark.parametrize(
    "text",
    [
        "engine: {!!binary YXJncw==: {worker_cls: x}}",  # bytes of `args`, which would become that name
        "inspector: !!binary c2NyaXB0ZWQ6YTpi",
        "inspector: !!set {'scripted:a:b'}",
        "a: &a {b: *a}",
    ],
)
def test_nothing_hides_behind_yaml(text):
    assert "f.yaml: " in refused(yaml.safe_load(text))


def test_files_are_looked_at_and_what_is_typed_is_the_users_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(RECIPE.format(args="{reasoning_parser_plugin: x.py}"))
    with pytest.raises(
        UsageError, match=r"^r.yaml:2: models.teacher.args.reasoning_parser_plugin: no file may set it so"
    ):
        read_graph("r.yaml", STAGES)
    (tmp_path / "r.yaml").write_text(RECIPE.format(args="{}"))
    typed = parse_assignments(["models.teacher.args.reasoning_parser_plugin=x.py"])
    [step] = read_graph("r.yaml", STAGES, Told(sets=typed)).steps
    assert step.sources["model"].settings["args"] == {"reasoning_parser_plugin": "x.py"}


@pytest.mark.parametrize("secret", ["{hf_token: hf_x}", "{trust_remote_code: true}", "{x: {trust_remote_code: true}}"])
def test_some_arguments_are_refused_though_typed(tmp_path, secret, capsys):
    (tmp_path / "r.yaml").write_text(RECIPE.format(args="{}"))
    flags = ["-o", "out", "--print-config", "--set", f"models.teacher.args={secret}"]
    code = run.main([str(tmp_path / "r.yaml"), *flags])
    assert code == 2
    assert "hf_x" not in (text := capsys.readouterr().err)
    assert "trust_remote_code" in text or "hf_token" in text


def test_a_key_is_no_setting(capsys):
    engine = {"engine": "server", "base_url": "https://elsewhere", "api_key_env": "AWS_SECRET_ACCESS_KEY"}
    for values in ({"models": {"teacher": engine}}, {"members": [{"engine": engine}]}):
        assert "ALIGNBEAM_KEYS" in refused(values)
    flags = ["corpus", "--aligner", "a", "--inspector", "i", "-o", "out", "--set", "engine.api_key_env=HOME"]
    assert align.main(flags) == 2
    assert "api_key_env: is no setting any more" in capsys.readouterr().err


def test_the_lists_name_arguments_that_vllm_has():
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        pytest.skip("vLLM is not installed")
    of_servers = {"reasoning_effort", "verbosity", "service_tier", "response_format"}
    for names, module in ((ENGINE_ARGS, "engine/arg_utils.py"), (SAMPLING_EXTRA, "sampling_params.py")):
        source = (Path(spec.origin).parent / module).read_text()  # to import vLLM takes seconds
        assert [name for name in names if f"\n    {name}: " not in source and name not in of_servers] == []
