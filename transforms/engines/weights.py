"""What a model folder holds, and the digest of all in it that decides what the model says."""

import json
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import xxhash

from schemas.errors import UsageError
from transforms.engines import digest_of

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
DECISIVE_FILES = (
    "*.safetensors",
    "*.model",
    "*.jinja",
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
)
READ_BYTES = 16 << 20


class Weights(NamedTuple):
    """A model on this disk: its folder, the folder of a LoRA adapter on top of it or None, and their digest."""

    model: Path
    adapter: Path | None
    digest: str


def find_weights(model: str, revision: str | None = None) -> Weights:
    """Find `model`: a model folder, a LoRA adapter's folder (which names its base), or a hub id.

    Raises UsageError where a folder is not a model's, or where a hub id cannot be had.
    """
    folder = Path(model).expanduser()
    if not folder.exists():
        if not HUB_ID.fullmatch(model):
            raise UsageError(f"{model}: no such model folder")
        folder = _from_hub(model, revision)
    adapter = None
    if not (folder / "config.json").is_file() and (folder / "adapter_config.json").is_file():
        adapter = folder
        base = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
        folder = find_weights(base).model
    for part in filter(None, (folder, adapter)):
        missing = [name for name in (["config.json"] if part != adapter else []) if not (part / name).is_file()]
        missing += [] if any(part.glob("*.safetensors")) else ["*.safetensors"]
        if missing:
            raise UsageError(f"{part}: not a model folder: it has no {' and no '.join(missing)}")
    return Weights(folder, adapter, digest_of(*(_folder_digest(part) for part in (folder, adapter) if part)))


def _from_hub(model: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UsageError(f"{model}: no such model folder, and no huggingface_hub to look for it") from error
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=list(DECISIVE_FILES)))
    except Exception as error:
        raise UsageError(f"{model}: neither a model folder nor a model of the hub: {error}") from error


def _folder_digest(folder: Path) -> list[tuple[str, str]]:
    files = {path for pattern in DECISIVE_FILES for path in folder.glob(pattern)}
    return [(path.name, _file_digest(path.resolve(), *_stamp(path))) for path in sorted(files)]


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@cache
def _file_digest(path: Path, size: int, mtime_ns: int) -> str:
    if re.fullmatch(r"[0-9a-f]{40,64}", path.name):  # a blob of the hub's cache is named by its content
        return path.name
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()
