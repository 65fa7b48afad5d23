"""Tokens of prompts: as the model's own tokenizer counts them, and rather too many where that is not here."""

import json

import pytest
from random_model import CHAT_TEMPLATE, write_random_model

from transforms.engines.engine import EngineConfig
from transforms.engines.prompt_tokens import token_counter, tokenizer_folder

TEXTS = ["Is it right to skip the line at the bakery?", "x"]


def test_a_local_models_own_tokenizer_counts(root):
    counter = token_counter(EngineConfig(model=str(root / "demo/teacher")))
    assert counter(TEXTS) == [11, 1]
    assert counter.is_exact


def test_a_token_that_training_adds_is_one(root):
    engine = EngineConfig(model=str(root / "demo/teacher"))
    assert token_counter(engine)(["a [INIT] b"]) == [9]
    assert token_counter(engine, ("[INIT]",))(["a [INIT] b"]) == [4]  # a, a space, [INIT], b


@pytest.mark.parametrize(
    ("settings", "tokens"),
    [
        ({"model": "Qwen/Qwen3-8B"}, [15, 1]),  # 43 bytes, three to a token
        ({"model": "Qwen/Qwen3-8B", "style": "chat"}, [55, 41]),
        ({"engine": "server", "model": "demo/teacher", "base_url": "https://host/v1"}, [15, 1]),
    ],
)
def test_without_its_tokenizer_tokens_are_taken_to_be_short(settings, tokens):
    counter = token_counter(EngineConfig(**settings))
    assert counter(TEXTS) == tokens
    assert not counter.is_exact


def test_an_adapter_has_its_bases_tokenizer(root, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(root / "demo/teacher")}))
    assert token_counter(EngineConfig(model=str(tmp_path)))(TEXTS) == [11, 1]
    other = EngineConfig(model="any/8B", args={"tokenizer": str(root / "demo/teacher")})
    assert tokenizer_folder(other) == str(root / "demo/teacher")


def test_a_chat_prompt_has_its_template_around_it(tmp_path):
    model = write_random_model(tmp_path / "model", CHAT_TEMPLATE)  # a token for each byte: <user>x<assistant>
    engine = EngineConfig(model=str(model), style="chat")
    assert token_counter(engine)(["ab"]) == [len("<user>ab<assistant>") + 1]  # the template is counted around an x
    thinking = EngineConfig(model=str(model), style="chat", chat_template_kwargs={"thinking": True})
    assert token_counter(thinking)(["ab"]) == [len("<user>ab<assistant>") + 1 + 1]
