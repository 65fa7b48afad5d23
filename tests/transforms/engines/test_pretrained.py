"""Model folders that bring or name code: refused at every door, and never asked about."""

import json
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import tiny_models

from pipelines import evaluate
from pipelines.runtime.step import Place, PlannedStep
from pipelines.runtime.steps import alone, check_outside
from schemas.errors import UsageError
from training.fit import load as load_base
from training.run_folder import base_digest
from transforms.alignment.members import adapter_of
from transforms.engines.embedder import Embedder
from transforms.engines.engine import EngineConfig
from transforms.engines.inspector import Inspector, check_inspector
from transforms.engines.pair_ranker import PairRanker, convert
from transforms.engines.pretrained import IGNORED_FILES, load, refuse_code
from transforms.engines.running import open_engine
from transforms.engines.weights import find_weights

AUTO_MAP = {"AutoConfig": "evil.Config", "AutoModelForSequenceClassification": "evil.Model", "AutoModel": "evil.Model"}
REFUSED = r"config\.json: auto_map = \{.* asks for code to be run, and no such model is loaded"
EVIL = "open(__file__ + '.ran', 'w').close()\n"


def edit(path: Path, **changes: object) -> None:
    settings = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**settings, **changes}))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_models.classifier(tmp_path_factory.mktemp("model"))


@pytest.fixture
def clean(model, tmp_path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "clean"))


@pytest.fixture
def evil(model, tmp_path, monkeypatch):
    """A model with code of its own; whoever is asked on the terminal whether to run it says yes."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = Path(shutil.copytree(model, tmp_path / "evil"))
    (folder / "evil.py").write_text(EVIL)
    edit(folder / "config.json", auto_map=AUTO_MAP, model_type="evil")
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tokenizer", None]})
    yield folder
    assert list(tmp_path.rglob("*.ran")) == []
    assert not (tmp_path / "modules").exists()


def check_judges(**judges: Any) -> None:
    planned = PlannedStep("evaluation", evaluate.KIND, evaluate.Config(aligned="", **judges))
    check_outside([alone(planned)], Place(""))


DOORS = {
    "evaluate": lambda folder: check_judges(inspectors=(folder,)),
    "judge": lambda folder: check_judges(pair_ranker=folder),
    "align": check_inspector,
    "inspector": Inspector,
    "embedder": Embedder,
    "pair-ranker": PairRanker,
    "digest": find_weights,
    "aligner of a squad": adapter_of,
    "trainers": base_digest,
    "vLLM": lambda folder: open_engine(EngineConfig(model=folder)),
}


@pytest.mark.parametrize("door", DOORS)
def test_a_model_with_code_is_refused_at_every_door(evil, door):
    with pytest.raises(UsageError, match=f"{evil}/{REFUSED}"):
        DOORS[door](str(evil))


@pytest.mark.parametrize("loader", ["AutoConfig", "AutoTokenizer", "AutoModel", "AutoModelForSequenceClassification"])
def test_the_loader_refuses_by_itself(evil, loader):
    import transformers

    with pytest.raises(UsageError, match=REFUSED):
        load(getattr(transformers, loader), evil)
    with pytest.raises(UsageError, match=rf"base = '{evil}': cannot be loaded by {loader}: .*auto_map"):
        load_base(getattr(transformers, loader), str(evil))


@pytest.mark.parametrize("loader", ["AutoConfig", "AutoTokenizer", "AutoModel"])
def test_a_hub_id_is_loaded_without_its_code_and_without_a_question(evil, loader, tmp_path):
    import transformers

    cached = tmp_path / "hub" / "models--nobody--evil"
    shutil.copytree(evil, cached / "snapshots" / ("0" * 40))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40)
    with suppress(ValueError):  # a tokenizer is made by what transformers itself has
        load(getattr(transformers, loader), "nobody/evil", cache_dir=tmp_path / "hub")
    assert not (tmp_path / "modules").exists()


LOADS = """
import sys
from schemas.command_line import exit_code
from training import fit
from transforms.engines import pretrained
import datasets, transformers

def command():
    if sys.argv[2] == "train":
        fit.start(0)
    pretrained.load(getattr(transformers, "AutoModelForSequenceClassification"), sys.argv[1])
    datasets.utils.logging.get_logger("datasets.x").warning("datasets say \\x1b[31m")
    return 0

sys.exit(exit_code(command))
"""


def loaded_elsewhere(folder: Path, way: str) -> str:
    """Load a model in a program of its own; return what the program said, in which nothing hidden stands."""
    done = subprocess.run([sys.executable, "-c", LOADS, str(folder), way], capture_output=True)
    said = (done.stdout + done.stderr).decode()
    assert not set(said) & {"\x1b", "\u202e", "\r"}, said
    assert r"odd\x1b[31m\u202e" in said
    assert "Loading weights" not in said
    return said


def test_a_tensors_name_that_a_library_says_is_printable(clean):
    from safetensors.torch import load_file, save_file

    weights = clean / "model.safetensors"
    tensors = load_file(weights)
    save_file({**tensors, "odd\x1b[31m\u202e": tensors["classifier.bias"].clone()}, weights, {"format": "pt"})
    said = loaded_elsewhere(clean, "score")
    assert said.count("datasets say \\x1b[31m") == 1
    assert "LOAD REPORT" in said
    assert r"\x1b[1m" not in said  # the library's own colours


def test_a_setting_that_a_library_says_while_training_is_printable(clean):
    edit(clean / "config.json", use_return_dict="odd\x1b[31m\u202e")
    assert "Can't set use_return_dict" in loaded_elsewhere(clean, "train")


def test_pickled_weights_are_not_loaded_from_a_hub_id_either(model, tmp_path):
    from transformers import AutoModel

    snapshot = tmp_path / "hub" / "models--nobody--pickled" / "snapshots" / ("0" * 40)
    shutil.copytree(model, snapshot)
    (snapshot / "model.safetensors").rename(snapshot / "pytorch_model.bin")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    with pytest.raises(OSError, match="safetensors"):
        load(AutoModel, "nobody/pickled", cache_dir=tmp_path / "hub")


CODE = [
    ("config.json", {"text_config": {"layers": [{"auto_map": AUTO_MAP}]}}, "text_config.layers.0.auto_map"),
    ("tokenizer_config.json", {"auto_map": ["evil.Tokenizer", None]}, "auto_map"),
    ("processor_config.json", {"auto_map": {"AutoProcessor": "evil.P"}}, "auto_map"),
    ("preprocessor_config.json", {"auto_map": {"AutoImageProcessor": "evil.P"}}, "auto_map"),
    ("config.5.0.0.json", {"auto_map": AUTO_MAP}, "auto_map"),
    ("generation_config.json", {"custom_generate": "nobody/evil"}, "custom_generate"),
    ("config.json", {"custom_pipelines": {"x": {"impl": "evil.P"}}}, "custom_pipelines"),
    ("config.json", {"trust_remote_code": True}, "trust_remote_code"),
    ("config.json", {"attn_implementation": "nobody/kernel"}, "attn_implementation"),
    ("config.json", {"_attn_implementation": {"text_config": "a/b@v1:f"}}, "_attn_implementation"),
    ("config.json", {"experts_implementation": "nobody/kernel"}, "experts_implementation"),
    ("adapter_config.json", {"auto_mapping": {"parent_library": "os", "base_model_class": "x"}}, "auto_mapping"),
    ("adapter_config.json", {"megatron_config": {"a": 1}, "megatron_core": "evil"}, "megatron_config"),
]
HARMLESS = [
    ("config.json", {"auto_map": None, "custom_pipelines": {}, "trust_remote_code": False}),
    ("config.json", {"attn_implementation": "sdpa", "rope_scaling": {"type": "yarn"}}),
    ("adapter_config.json", {"auto_mapping": {"parent_library": "transformers.models.bert.modeling_bert"}}),
    ("adapter_config.json", {"auto_mapping": None, "megatron_config": None, "megatron_core": "megatron.core"}),
    ("notes.json", {"auto_map": AUTO_MAP}),
]


@pytest.mark.parametrize(("file", "settings", "key"), CODE)
def test_settings_that_ask_for_code_are_named(clean, file, settings, key):
    edit(clean / file, **settings)
    with pytest.raises(UsageError, match=re.escape(f"{clean}/{file}: {key} = ")):
        refuse_code(clean)


@pytest.mark.parametrize(("file", "settings"), HARMLESS)
def test_harmless_settings_pass(clean, file, settings):
    edit(clean / file, **settings)
    refuse_code(clean)


def test_parts_of_a_sentence_transformer_are_that_librarys(clean):
    parts = [{"type": "sentence_transformers.models.Pooling"}, {"type": "evil.Pooling"}]
    (clean / "modules.json").write_text(json.dumps(parts[:1]))
    refuse_code(clean)
    (clean / "modules.json").write_text(json.dumps(parts))
    with pytest.raises(UsageError, match=r'modules\.json: 1\.type = "evil\.Pooling"'):
        refuse_code(clean)


@pytest.mark.parametrize(
    ("name", "message"),
    [("../secret.safetensors", "does not lie below its folder"), ("model.bin", r"loaded from \*\.safetensors alone")],
)
def test_an_index_names_safetensors_of_its_folder(clean, name, message):
    (clean / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model.safetensors"}}))
    refuse_code(clean)
    (clean / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(UsageError, match=rf"index\.json: names '{name}'.*{message}"):
        refuse_code(clean)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"vocab_file": "/etc/passwd"}, "vocab_file"),
        ({"vocab": "~/secrets"}, "vocab"),
        ({"merges": "../secrets"}, "merges"),
        ({"merges_file": "https://example.com/merges.txt"}, "merges_file"),
        ({"spm_file": "a/../../b"}, "spm_file"),
        ({"sp_model_kwargs": {"model_file": "/etc/passwd"}}, "sp_model_kwargs.model_file"),
        ({"init_inputs": ["/etc/passwd"]}, "init_inputs"),
        ({"fast_tokenizer_files": ["../tokenizer.4.0.json"]}, "fast_tokenizer_files"),
    ],
)
def test_a_tokenizer_reads_no_file_outside_its_folder(clean, settings, key):
    edit(clean / "tokenizer_config.json", **settings)
    with pytest.raises(UsageError, match=rf"tokenizer_config\.json: {key}: names '.*does not lie below its folder"):
        refuse_code(clean)


@pytest.mark.parametrize(
    "settings",
    [
        {"vocab_file": None, "vocab": {"/": 0, "..": 1}, "merges": ["/ /", ". ."], "init_inputs": []},
        {"vocab_file": "vocab.txt", "fast_tokenizer_files": ["tokenizer.4.0.json"]},
        {"name_or_path": "/old", "tokenizer_file": "/old/tokenizer.json", "special_tokens_map_file": "/old/map.json"},
    ],
)
def test_a_tokenizer_may_name_files_of_its_own_and_those_that_nothing_reads(clean, settings):
    edit(clean / "tokenizer_config.json", **settings)
    refuse_code(clean)


@pytest.mark.parametrize("key", IGNORED_FILES)
@pytest.mark.parametrize("beside", [True, False])
def test_transformers_reads_no_file_that_is_taken_to_be_ignored(clean, tmp_path, key, beside):
    from transformers import AutoTokenizer

    (tmp_path / "secret.json").write_text((clean / "tokenizer.json").read_text().replace("kind", "secret"))
    edit(clean / "tokenizer_config.json", **{key: str(tmp_path / "secret.json")})
    if not beside:
        (clean / "tokenizer.json").unlink()
    vocabulary = {}
    with suppress(ValueError):  # no tokenizer is made of nothing
        vocabulary = load(AutoTokenizer, clean).get_vocab()
    assert ("kind" in vocabulary) == beside
    assert "secret" not in vocabulary


def test_only_a_leading_tilde_is_the_home_folder(clean, evil, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(clean, tmp_path / "home" / "m")
    shutil.copytree(evil, tmp_path / "~" / "m")
    assert find_weights("~/m").model == str(tmp_path / "home" / "m")
    with pytest.raises(UsageError, match=rf"~/m/{REFUSED}"):
        find_weights("./~/m")
    with pytest.raises(UsageError, match=rf"~/m/{REFUSED}"):
        refuse_code(Path("./~/m"))
    shutil.rmtree(tmp_path / "~" / "m")
    shutil.copytree(clean, tmp_path / "~" / "m")
    assert find_weights("./~/m").model == str(tmp_path / "~" / "m")
    shutil.rmtree(tmp_path / "~")


def test_the_base_of_an_adapter_is_looked_at_too(evil, clean, tmp_path):
    for name, base in (("adapter", evil), ("second", tmp_path / "adapter"), ("own", tmp_path / "own")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_model.safetensors").touch()
        edit(tmp_path / name / "adapter_config.json", base_model_name_or_path=str(base))
    for name in ("adapter", "second"):
        with pytest.raises(UsageError, match=f"{evil}/{REFUSED}"):
            find_weights(str(tmp_path / name))
    with pytest.raises(
        UsageError, match=r"own/adapter_config\.json: base_model_name_or_path = '.*own': names no model"
    ):
        find_weights(str(tmp_path / "own"))
    edit(clean / "adapter_config.json", base_model_name_or_path=str(evil))  # a whole model beside an adapter
    with pytest.raises(UsageError, match=f"{evil}/{REFUSED}"):
        check_inspector(clean)


@pytest.mark.parametrize("args", [{"tokenizer": "{evil}"}, {"speculative_config": {"model": "{evil}"}}])
def test_folders_among_vllms_arguments_are_looked_at(evil, clean, args):
    args = json.loads(json.dumps(args).replace("{evil}", str(evil)))
    with pytest.raises(UsageError, match=f"{evil}/{REFUSED}"):
        open_engine(EngineConfig(model=str(clean), args=args))


def test_a_backbone_with_code_is_not_converted(evil, tmp_path):
    (tmp_path / "ranker").mkdir()
    edit(tmp_path / "ranker" / "config.json", ranker_type="pairranker")
    with pytest.raises(UsageError, match=REFUSED):
        convert(tmp_path / "ranker", evil, tmp_path / "out")


def test_a_text_that_is_no_path_is_no_folder():
    for text in ("x" * 5000, "a\0b", "~nobody-of-that-name/x", ""):
        refuse_code(text)


def test_one_module_alone_loads_what_is_pretrained(root):
    loaders = [
        path.relative_to(root).as_posix()
        for package in ("schemas", "transforms", "training", "pipelines")
        for path in (root / package).rglob("*.py")
        if "from_pretrained(" in path.read_text()
    ]
    assert loaders == ["transforms/engines/pretrained.py"]
