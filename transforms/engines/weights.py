"""What a model folder holds, and the digest of all in it that decides what the model says."""

import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import xxhash

from schemas.errors import UsageError
from transforms.engines.engine import digest_of
from transforms.engines.pretrained import read_object, refuse_code

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
TOKENIZER_FILES = (
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
)
DECISIVE_FILES = (
    "*.safetensors",
    "*.jinja",
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    *TOKENIZER_FILES,
)
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "tekken.json")
READ_BYTES = 16 << 20


class Weights(NamedTuple):
    """A model: its folder or hub id, the folder of a LoRA adapter on top of it or None, and their digest."""

    model: str
    adapter: str | None
    digest: str


def find_weights(model: str, revision: str | None = None) -> Weights:
    """Find `model`: a model folder, a LoRA adapter's folder, which names its base, or a hub id.

    A hub id stands for itself with its revision: nothing is fetched here. Raises UsageError where there is no such
    folder, it is not a model's, or its settings ask for code to be run.
    """
    folder = Path(os.path.expanduser(model))
    if str(folder).startswith("~"):  # `./~`: a folder of that name, which nobody after us shall expand
        folder = folder.absolute()
    if not os.path.exists(folder):  # a Path raises where a name is too long
        if model.startswith((".", "/", "~")) or not HUB_ID.fullmatch(model):
            raise UsageError(f"{model}: no such model folder")
        return Weights(model, None, digest_of(model, revision))
    refuse_code(folder)
    if not any(folder.glob("*.safetensors")):
        raise UsageError(f"{folder}: not a model folder: it has no *.safetensors")
    if (folder / "config.json").is_file():
        return Weights(str(folder), None, digest_of(file_digests(folder, DECISIVE_FILES)))
    if not (folder / "adapter_config.json").is_file():
        raise UsageError(f"{folder}: not a model folder: it has no config.json")
    name = read_object(folder / "adapter_config.json").get("base_model_name_or_path")
    if not isinstance(name, str) or (Path(name).is_dir() and not (Path(name) / "config.json").is_file()):
        raise UsageError(f"{folder}/adapter_config.json: base_model_name_or_path = {name!r}: names no model")
    base = find_weights(name, revision)
    return Weights(base.model, str(folder), digest_of(base.digest, file_digests(folder, DECISIVE_FILES)))


def has_chat_template(model: str) -> bool:
    """Return whether a model folder brings a chat template.

    It is taken to be so of a hub id, because its files are not here yet.
    """
    folder = Path(model)
    settings = folder / "tokenizer_config.json"
    return (
        not folder.is_dir()
        or any((folder / name).is_file() for name in TEMPLATE_FILES)
        or (settings.is_file() and read_object(settings).get("chat_template") is not None)
    )


def file_digests(folder: Path, patterns: Sequence[str]) -> list[tuple[str, str]]:
    """Return name and digest of the files in a folder that match a pattern, sorted."""
    files = {path for pattern in patterns for path in folder.glob(pattern)}
    return [(path.name, _file_digest(path.resolve(), *_stamp(path))) for path in sorted(files)]


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@cache
def _file_digest(path: Path, size: int, mtime_ns: int) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()
