"""What the trainers of causal models share: encoded completions, what ends them, and adapters."""

from types import SimpleNamespace

import pyarrow as pa
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from schemas.errors import UsageError
from training.aligner import Config
from training.causal import (
    IGNORED,
    check_prompt_end,
    encode_completions,
    encode_splits,
    end_mark,
    lora_config,
    model_to_publish,
    rows_with_too_long,
)


def letters(texts, add_special_tokens=True):
    """Tokenizes: 1 begins a text, and each letter is one token."""
    return {"input_ids": [[1] * add_special_tokens + [ord(letter) for letter in text] for text in texts]}


def test_the_loss_is_on_completions_and_what_is_too_long_is_left_out():
    assert encode_completions(["a", "aa", "b"], ["cd", "cd", "e"], letters, max_tokens=4) == {
        "input_ids": [[1, 97, 99, 100], [1, 98, 101]],
        "labels": [[IGNORED, IGNORED, 99, 100], [IGNORED, IGNORED, 101]],
    }


def test_rows_that_were_left_out_are_counted_and_a_split_without_rows_is_refused():
    settings = Config(data="shards", output="o", max_tokens=3)
    splits = {"train": pa.table({"text": ["a", "abcd"]}), "validation": pa.table({"text": ["b"]})}

    def encode(table):
        texts = table["text"].to_pylist()
        yield encode_completions(texts, ["!"] * len(texts), letters, settings.max_tokens)

    datasets, too_long = encode_splits(splits, encode, settings)
    assert datasets["train"].to_dict() == {"input_ids": [[1, 97, 33]], "labels": [[IGNORED, IGNORED, 33]]}
    assert too_long == {"train": 1, "validation": 0}
    assert rows_with_too_long(datasets, too_long) == "train 1 (1 too long), validation 1 (0 too long)"
    with pytest.raises(UsageError, match="shards: every pair of test has more than max_tokens = 3 tokens"):
        encode_splits({**splits, "test": pa.table({"text": ["abcd"]})}, encode, settings)


def test_a_tokenizer_that_ends_every_prompt_is_refused(bases):
    check_prompt_end(AutoTokenizer.from_pretrained(bases["llama"]), "llama", "how do i learn")
    with pytest.raises(UsageError, match=r"base = 'encoder': its tokenizer ends every text with \['\[SEP\]'\]"):
        check_prompt_end(AutoTokenizer.from_pretrained(bases["encoder"]), "encoder", "how do i learn")


def test_the_end_of_sequence_pads_only_where_nothing_else_does(bases):
    tokenizer = AutoTokenizer.from_pretrained(bases["gpt2"])
    assert (end_mark(tokenizer, "gpt2"), tokenizer.pad_token) == ("<|end|>", "<|end|>")
    tokenizer.pad_token = "!"
    assert (end_mark(tokenizer, "gpt2"), tokenizer.pad_token) == ("<|end|>", "!")
    tokenizer.eos_token = None
    with pytest.raises(UsageError, match="base = 'gpt2': its tokenizer has no end of sequence; choose a base"):
        end_mark(tokenizer, "gpt2")


@pytest.mark.parametrize(("base", "tied"), [("gpt2", True), ("llama", False)])
def test_embeddings_are_trained_in_full_only_where_asked(bases, base, tied):
    model = AutoModelForCausalLM.from_pretrained(bases[base])
    settings = Config(data="d", output="o", lora_rank=4)
    apart = lora_config(settings, model, train_embeddings=False)
    assert (apart.r, apart.modules_to_save, apart.ensure_weight_tying) == (4, None, False)
    whole = lora_config(settings, model, train_embeddings=True)
    names = {"gpt2": ["lm_head", "wte"], "llama": ["embed_tokens", "lm_head"]}[base]
    assert (whole.modules_to_save, whole.ensure_weight_tying) == (names, tied)
    assert lora_config(Config(data="d", output="o"), model, train_embeddings=True) is None


def test_an_adapters_settings_are_written_in_one_order():
    written = SimpleNamespace(
        target_modules={f"{letter}_proj" for letter in "kqvoabcdefgh"}, base_model_name_or_path=""
    )
    model = SimpleNamespace(peft_config={"default": written})
    model_to_publish(SimpleNamespace(lora_rank=4, base="some/base"), model, adapter=True)
    assert written.target_modules == [f"{letter}_proj" for letter in "abcdefghkoqv"]
    assert written.base_model_name_or_path == "some/base"
