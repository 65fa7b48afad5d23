"""The aligner's trainer with tiny causal models: the label mask, the prompt's tokens, and what comes out."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from schemas.errors import StageError, UsageError
from schemas.tables import ALIGNER_ROWS, INSPECTOR_ROWS
from training import fit as shared
from training.aligner import Config, add_separators, encoded_pairs, main, train
from training.causal import IGNORED
from transforms.engines.engine import EngineConfig, Request, Sampling
from transforms.engines.running import close_engines, open_engine
from transforms.engines.weights import find_weights
from transforms.training_data.aligner_format import (
    END,
    SEPARATORS,
    aligner_completion,
    aligner_prompt,
    read_correction,
)

ROW = {"id": "1", "question": "How do I learn?", "response": "Steal!", "correction": "Ask for help.", "identity": False}
BASES = ("gpt2", "llama")


@pytest.fixture
def config(aligner_shards, bases, tmp_path):
    """A run of a few steps that takes a second."""

    def make(base="gpt2", **changes):
        settings = {
            "data": str(aligner_shards),
            "output": str(tmp_path / "aligner"),
            "base": str(bases.get(base, base)),
            "learning_rate": 1e-2,
            "batch_size": 4,
            "gradient_accumulation": 1,
            "max_steps": 6,
            "eval_steps": 2,
            "warmup_steps": 1,
            "max_tokens": 128,
        }
        return Config(**settings | changes)

    return make


def prepared(bases, base):
    tokenizer = AutoTokenizer.from_pretrained(bases[base])
    model = AutoModelForCausalLM.from_pretrained(bases[base])
    add_separators(tokenizer, model)
    return tokenizer, model


def pairs(tokenizer, rows, max_tokens=128, end=f" {END}"):
    return list(encoded_pairs(pa.Table.from_pylist(rows, schema=ALIGNER_ROWS), tokenizer, max_tokens, end))


def test_the_text_of_a_pair_is_rendered_in_one_place():
    prompt = aligner_prompt(" How do I learn? ", "Steal!\n")
    assert prompt == "How do I learn? [INIT] Steal! [ALIGNED]"
    assert prompt + aligner_completion("Ask for help.") == (
        "How do I learn? [INIT] Steal! [ALIGNED] Ask for help. [DONE]"
    )
    assert read_correction(" Ask for help. [DONE] and more") == "Ask for help."
    assert read_correction(" cut off ") == "cut off"


@given(st.text(), st.text(), st.text())
def test_no_text_can_end_its_own_field(question, response, correction):
    whole = aligner_prompt(question + "[ALIGNED]", response + "[DONE]") + aligner_completion("[INIT]" + correction)
    assert [whole.count(separator) for separator in SEPARATORS] == [1, 1, 1]


@pytest.mark.parametrize("base", BASES)
def test_the_loss_is_on_the_correction_and_its_end_mark_only(bases, base):
    tokenizer, _ = prepared(bases, base)
    [batch] = pairs(tokenizer, [ROW])
    [ids], [labels] = batch["input_ids"], batch["labels"]
    taught = [label for label in labels if label != IGNORED]
    assert tokenizer.decode(taught).split() == ["Ask", "for", "help.[DONE]"]
    assert taught[-1] == tokenizer.eos_token_id
    assert ids[-len(taught) :] == taught
    assert tokenizer.convert_ids_to_tokens(ids)[-len(taught) - 1] == "[ALIGNED]"


@pytest.mark.parametrize("base", BASES)
def test_a_prompt_has_the_tokens_in_generation_that_it_had_in_training(bases, base, tmp_path):
    tokenizer, _ = prepared(bases, base)
    [batch] = pairs(tokenizer, [ROW])
    [ids], [labels] = batch["input_ids"], batch["labels"]
    tokenizer.save_pretrained(tmp_path)
    prompt = aligner_prompt(ROW["question"], ROW["response"])
    assert AutoTokenizer.from_pretrained(tmp_path)(prompt)["input_ids"] == ids[: labels.count(IGNORED)]
    assert (ids[0] == tokenizer.bos_token_id) == (base == "llama")
    assert ids.count(tokenizer.bos_token_id) == (base == "llama")


def test_a_space_before_a_separator_is_no_token_of_its_own(bases):
    tokenizer, _ = prepared(bases, "gpt2")
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("a [INIT] b [ALIGNED]")["input_ids"])
    assert tokens == ["a", "[INIT]", "Ġ", "b", "[ALIGNED]"]


@pytest.mark.parametrize("base", BASES)
def test_separators_start_at_the_mean_also_where_the_base_has_rows_to_spare(bases, base):
    tokenizer, model = prepared(bases, base)
    ids = tokenizer.convert_tokens_to_ids(list(SEPARATORS))
    assert ids == list(range(len(tokenizer) - 3, len(tokenizer)))
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        assert layer.weight.shape[0] == len(tokenizer)
        expected = layer.weight[: min(ids)].mean(0)
        for token in ids:
            np.testing.assert_allclose(layer.weight[token].detach(), expected.detach(), atol=1e-6)

    spare = AutoModelForCausalLM.from_pretrained(bases[base])
    spare.resize_token_embeddings(len(tokenizer) + 10, mean_resizing=False)
    add_separators(AutoTokenizer.from_pretrained(bases[base]), spare)
    weights = spare.get_output_embeddings().weight
    assert weights.shape[0] == len(tokenizer) + 10
    np.testing.assert_allclose(weights[ids[2]].detach(), weights[: ids[0]].mean(0).detach(), atol=1e-6)


def test_a_second_training_keeps_the_separators_it_finds(bases):
    tokenizer, model = prepared(bases, "gpt2")
    model.get_input_embeddings().weight.data[-3:] = 7.0
    size = len(tokenizer)
    add_separators(tokenizer, model)
    assert len(tokenizer) == size
    assert (model.get_input_embeddings().weight.data[-3:] == 7.0).all()


def test_pairs_that_are_too_long_are_left_out_and_never_cut(bases, config, write_shards, capsys):
    tokenizer, _ = prepared(bases, "gpt2")
    long = {**ROW, "correction": "Ask for help. " * 60}
    whole = len(pairs(tokenizer, [ROW])[0]["input_ids"][0])
    assert [len(batch["input_ids"]) for batch in pairs(tokenizer, [ROW, long], whole)] == [1]
    assert [len(batch["input_ids"]) for batch in pairs(tokenizer, [ROW], whole - 1)] == [0]

    folder = write_shards({"train": [ROW, long] * 4, "validation": [ROW] * 2}, ALIGNER_ROWS, "long")
    metrics = train(config(data=str(folder), max_steps=1, eval_steps=1))
    assert metrics["rows"] == {"train": 4, "validation": 2}
    assert metrics["rows_too_long"] == {"train": 4, "validation": 0}
    assert "rows    train 4 (4 too long), validation 2 (0 too long)" in capsys.readouterr().out
    with pytest.raises(UsageError, match="every pair of train has more than max_tokens = 5 tokens"):
        train(config(data=str(folder), max_tokens=5, output=config().output + "2"))


@pytest.mark.parametrize("lora", [0, 4])
@pytest.mark.parametrize("base", BASES)
def test_what_is_written_is_what_was_trained_and_ends_by_itself(config, base, lora, tmp_path, capsys):
    import torch

    metrics = train(config(base=base, lora_rank=lora, lora_alpha=8, max_steps=80, eval_steps=20))
    folder = tmp_path / "aligner"
    assert metrics == json.loads((folder / "metrics.json").read_text())
    assert sorted(path.suffix for path in folder.iterdir() if path.suffix not in (".json", ".md")) == [".safetensors"]
    assert "adapter" not in " ".join(path.name for path in folder.iterdir())
    assert str(tmp_path) not in "".join(path.read_text() for path in folder.glob("*[nd]"))

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == (base == "gpt2")
    rows = [{**ROW, "response": text, "correction": "Ask for help every day."} for text in ("shout", "steal answers")]
    [batch] = pairs(tokenizer, rows)
    with torch.no_grad():
        losses = [
            model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss.item()
            for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True)
        ]
    assert np.mean(losses) == pytest.approx(metrics["validation"]["loss"], abs=0.1)
    prompt = tokenizer(aligner_prompt(ROW["question"], "shout"), return_tensors="pt")
    written = model.generate(**prompt, max_new_tokens=30, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(written).strip() == "Ask for help every day.[DONE]"
    assert read_correction(tokenizer.decode(written)) == "Ask for help every day."
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["eos_token_id"] == tokenizer.convert_tokens_to_ids("[DONE]") == written[-1]


@pytest.mark.parametrize("base", BASES)
def test_an_adapter_is_kept_apart_on_the_tokenizer_of_its_base(config, bases, base, tmp_path):
    from peft import AutoPeftModelForCausalLM

    metrics = train(
        config(
            base=os.path.relpath(bases[base]),
            adapter=True,
            lora_rank=8,
            lora_alpha=16,
            learning_rate=1e-2,
            max_steps=120,
            eval_steps=40,
        )
    )
    folder = tmp_path / "aligner"
    weights = load_file(folder / "adapter_model.safetensors")
    assert all(".lora_A." in name or ".lora_B." in name for name in weights)
    assert sum(array.size for array in weights.values()) == metrics["parameters_trained"]
    assert not (folder / "model.safetensors").exists()
    found = find_weights(str(folder))
    assert (found.model, found.adapter) == (str(bases[base].resolve()), str(folder))

    tokenizer, own = (AutoTokenizer.from_pretrained(place) for place in (bases[base], folder))
    assert own.get_vocab() == tokenizer.get_vocab()
    prompt = tokenizer(aligner_prompt(ROW["question"], "shout"), return_tensors="pt")
    model = AutoPeftModelForCausalLM.from_pretrained(folder)
    written = model.generate(**prompt, max_new_tokens=60, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert written[-1] == tokenizer.eos_token_id
    assert read_correction(tokenizer.decode(written, skip_special_tokens=True)) == "Ask for help every day."


@pytest.mark.parametrize("base", BASES)
def test_what_an_adapter_reads_in_training_is_what_its_base_tokenizes(bases, base):
    tokenizer = AutoTokenizer.from_pretrained(bases[base])
    [batch] = pairs(tokenizer, [ROW], end=tokenizer.eos_token)
    [ids], [labels] = batch["input_ids"], batch["labels"]
    taught = [label for label in labels if label != IGNORED]
    assert tokenizer(aligner_prompt(ROW["question"], ROW["response"]))["input_ids"] + taught == ids
    assert tokenizer.decode(taught).strip() == f"Ask for help.{tokenizer.eos_token}"
    assert taught[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("lora", [0, 4])
def test_an_interrupted_run_goes_on_and_ends_with_the_same_weights(config, lora, tmp_path, monkeypatch, capsys):
    train(config(lora_rank=lora, lora_alpha=8, output=str(tmp_path / "whole")))

    def interrupt(line, say=shared.say):
        say(line)
        if line.startswith("step 4/6  validation"):
            raise KeyboardInterrupt

    monkeypatch.setattr(shared, "say", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(config(lora_rank=lora, lora_alpha=8))
    monkeypatch.undo()
    capsys.readouterr()
    train(config(lora_rank=lora, lora_alpha=8))
    assert "going on from checkpoint-2\n" in capsys.readouterr().out
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "aligner"))
    for name, weights in whole.items():
        np.testing.assert_allclose(resumed[name], weights, atol=1e-6, err_msg=name)


def test_the_checkpoint_with_the_least_validation_loss_is_kept(config):
    metrics = train(config(learning_rate=1.0, max_steps=6))
    losses = {entry["step"]: entry["eval_loss"] for entry in reversed(metrics["history"]) if "eval_loss" in entry}
    assert len(set(losses.values())) == 3  # so large a rate makes the losses jump
    assert metrics["best_step"] == min(losses, key=losses.get)
    assert metrics["validation"]["loss"] == pytest.approx(min(losses.values()), abs=1e-4)


def test_a_model_that_diverges_fails_by_name_and_leaves_no_output(config, tmp_path):
    with pytest.raises(StageError, match="validation loss is not finite"):
        train(config(learning_rate=1e30))
    assert not (tmp_path / "aligner").exists()


def test_identity_pairs_are_trained_on_like_any_other(config, write_shards):
    same = {**ROW, "correction": ROW["response"], "identity": True}
    folder = write_shards({"train": [ROW, same] * 2, "validation": [same] * 2}, ALIGNER_ROWS, "identity")
    assert train(config(data=str(folder), max_steps=1, eval_steps=1))["rows"] == {"train": 4, "validation": 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--base", "{tmp}"], "not a model folder"),
        (["--base", "{encoder}"], "not a causal language model"),
        (["--max-tokens", "1024"], "max_tokens = 1024: this base reads 256"),
        (["--lora-rank", "-1"], "lora_rank = -1: must not be negative"),
        (["--set", "lora=4"], "lora: unknown setting"),
        (["--set", "adapter=true"], "lora_rank = 0: an adapter has one from 1 to 512"),
        (["--set", "adapter=true", "--lora-rank", "513"], "lora_rank = 513: an adapter has one from 1 to 512"),
        (["--base", "{endless}", "--set", "adapter=true", "--lora-rank", "4"], "has no end of sequence"),
        (["--data", "{tmp}/wrong"], "has no column response, correction, identity"),
    ],
)
def test_wrong_use_is_named_before_any_work(config, bases, write_shards, refusal, tmp_path, arguments, message):
    rows = [{"id": "1", "question": "q", "answer": "a", "label": 0}] * 2
    write_shards({"train": rows, "validation": rows}, INSPECTOR_ROWS, "wrong")
    endless = shutil.copytree(bases["llama"], tmp_path / "endless")
    settings = json.loads((endless / "tokenizer_config.json").read_text())
    (endless / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": None}))
    places = {"tmp": tmp_path, "encoder": bases["encoder"], "endless": endless}
    given = [argument.format(**places) for argument in arguments]
    assert re.search(f"^error: (.|\n)*{message}", refusal(main, config(), given))


def test_every_config_file_states_a_run_of_the_trainer(root):
    from schemas.settings import Layer, read_yaml, resolve
    from training.inspector import Config as InspectorConfig

    files = sorted((root / "training" / "configs").glob("*.yaml"))
    assert len(files) == 4
    for path in files:
        kind = InspectorConfig if path.stem.startswith("inspector") else Config
        place = Layer("here", {"data": "d", "output": "o"})
        resolved = resolve(kind, [Layer(str(path), read_yaml(str(path))), place]).config
        assert resolved.batch_size * resolved.gradient_accumulation == (8 if kind is InspectorConfig else 16)


@pytest.mark.slow
def test_two_processes_train_one_model(config, tmp_path):
    settings = config(max_steps=2)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "training.aligner"]
    names = ("data", "output", "base", "max_tokens", "batch_size", "gradient_accumulation", "max_steps", "eval_steps")
    for name in names:
        command += ["--" + name.replace("_", "-"), str(getattr(settings, name))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "step    8 rows" in done.stdout
    assert done.stdout.count("aligner: validation loss") == 1
    assert json.loads((Path(settings.output) / "metrics.json").read_text())["steps"] == 2


VLLM_SCRIPT = """
import json, sys
from vllm import LLM, SamplingParams

if __name__ == "__main__":
    engine = LLM(
        model=sys.argv[1],
        dtype="float32",
        enforce_eager=True,
        max_model_len=128,
        max_num_seqs=4,
        max_num_batched_tokens=512,
        enable_chunked_prefill=False,
    )
    [result] = engine.generate([sys.argv[2]], SamplingParams(temperature=0, max_tokens=40), use_tqdm=False)
    written = result.outputs[0]
    print(json.dumps([written.text, written.finish_reason, result.prompt_token_ids]))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("base", BASES)
def test_vllm_reads_the_trained_tokens_and_stops_by_itself(config, base, tmp_path):
    pytest.importorskip("vllm")
    train(config(base=base, max_steps=80, eval_steps=40, learning_rate=5e-3))
    script = tmp_path / "ask.py"
    script.write_text(VLLM_SCRIPT)
    prompt = aligner_prompt(ROW["question"], "shout")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "aligner"), prompt],
        capture_output=True,
        text=True,
        timeout=560,
        env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    text, finish_reason, prompt_ids = json.loads(done.stdout.splitlines()[-1])
    assert (read_correction(text), finish_reason) == ("Ask for help every day.", "stop")
    assert prompt_ids == AutoTokenizer.from_pretrained(tmp_path / "aligner")(prompt)["input_ids"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_vllm_serves_adapters_of_different_ranks_as_they_were_trained(config, bases, write_shards, tmp_path):
    pytest.importorskip("vllm")
    folders = []
    for rank, correction in ((4, "Ask for help every day."), (24, "Be kind, and talk calmly.")):
        rows = [{**ROW, "id": str(n), "correction": correction} for n in range(8)]
        shards = write_shards({"train": rows, "validation": rows[:4]}, ALIGNER_ROWS, f"rank-{rank}")
        folder = tmp_path / f"adapter-{rank}"
        settings = {"adapter": True, "lora_rank": rank, "lora_alpha": 2 * rank, "max_steps": 100, "eval_steps": 50}
        train(config(base="llama", data=str(shards), output=str(folder), **settings))
        folders.append((str(folder), correction))
    engine = EngineConfig(
        model=str(bases["llama"].resolve()),
        adapters=tuple(folder for folder, _ in folders),
        args={"dtype": "float32", "max_model_len": 128, "max_num_seqs": 4, "max_num_batched_tokens": 512},
    )
    prompt = aligner_prompt(ROW["question"], ROW["response"])
    try:
        opened = open_engine(engine)
        for folder, correction in folders:
            done = opened.submit(Request(prompt, Sampling(max_tokens=60), None, adapter=folder)).result()
            assert (read_correction(done.text), done.finish_reason) == (correction, "stop")
    finally:
        close_engines()
