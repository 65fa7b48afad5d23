"""How many tokens texts have for a model: counted by its own tokenizer, and no model is loaded.

A tokenizer that is not on this machine is not fetched: its tokens are then taken to be short, so that a count is rather
too high.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from transforms.engines.engine import EngineConfig
from transforms.engines.pretrained import load, read_object

BYTES_PER_TOKEN = 3.0  # fewer than in any usual text and vocabulary; English has about 4.3
CHAT_TOKENS = 40  # around a prompt, by templates of the usual length
TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class TokenCounter:
    """Counts the tokens of prompts; is_exact: as the model's own tokenizer does."""

    count: Callable[[Sequence[str]], list[int]]
    is_exact: bool = False
    around: int = 0

    def __call__(self, prompts: Sequence[str]) -> list[int]:
        return [tokens + self.around for tokens in self.count(prompts)]


def token_counter(engine: EngineConfig, added: tuple[str, ...] = ()) -> TokenCounter:
    """Return what counts the tokens of a model's prompts, its chat template included.

    added: texts that the model, once trained, has tokens of their own for.
    """
    folder = tokenizer_folder(engine)
    if folder is None:
        return TokenCounter(count_bytes, around=CHAT_TOKENS if engine.style == "chat" else 0)
    if engine.style != "chat":
        return TokenCounter(_counted_by(folder, added), is_exact=True)
    around = _tokens_around(folder, tuple(sorted(engine.chat_template_kwargs.items())))
    if "chat_template" in engine.args:
        around = max(around, CHAT_TOKENS)
    return TokenCounter(_counted_by(folder, added, special=False), True, around)


def count_bytes(texts: Sequence[str]) -> list[int]:
    return [max(1, -int(-len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN)) for text in texts]


def tokenizer_folder(engine: EngineConfig) -> str | None:
    """Return the folder that has the tokenizer of a model that runs here; None where it is not on this machine."""
    if engine.engine != "vllm":
        return None
    folder = Path(os.path.expanduser(str(engine.args.get("tokenizer") or engine.model)))
    adapter = folder / "adapter_config.json"
    if adapter.is_file() and not (folder / "config.json").is_file():
        folder = Path(str(read_object(adapter).get("base_model_name_or_path")))
    return str(folder) if (folder / TOKENIZER).is_file() else None


@cache
def _counted_by(folder: str, added: tuple[str, ...], special: bool = True) -> Callable[[Sequence[str]], list[int]]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(folder) / TOKENIZER))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if added:
        tokenizer.add_special_tokens(list(added))

    def count(texts: Sequence[str]) -> list[int]:
        return [len(encoding.ids) for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=special)]

    return count


@cache
def _tokens_around(folder: str, template_arguments: tuple[tuple[str, Any], ...]) -> int:
    """Return how many tokens a model's chat template puts around a prompt."""
    from transformers import AutoTokenizer

    tokenizer = load(AutoTokenizer, folder)
    if not tokenizer.chat_template:  # the run says so
        return CHAT_TOKENS
    messages = [{"role": "user", "content": "x"}]
    arguments = dict(template_arguments)
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **arguments)
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])
