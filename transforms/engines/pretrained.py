"""Models and tokenizers of transformers, loaded without running code of theirs.

A folder's settings may name Python of its own (`auto_map`), modules to import, or kernels of the hub. Such a folder is
refused before a library sees it, also as the base of an adapter, whether or not that library would run the code: left
to itself, transformers asks on the terminal. Refused too are files elsewhere that a tokenizer would read as its own.
"""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from schemas.errors import UsageError
from schemas.names import check_name

SETTINGS = ("*config*.json", "modules.json")
INDEX = "*.safetensors.index.json"
# Python files of the folder, or of another; an import; consent in the name of the user.
CODE = frozenset(("auto_map", "custom_generate", "custom_pipelines", "megatron_config", "trust_remote_code"))
TOKENIZER_SETTINGS = "tokenizer_config.json"
# Arguments of a tokenizer that it takes for files, beside those that end in `_file`.
FILES = ("vocab", "merges", "tokenizer_object", "sp_model", "source_spm", "target_spm", "sudachi_config_path")
FILE_LISTS = ("init_inputs", "fast_tokenizer_files")
# transformers puts what lies in the folder, or nothing, in their place. Its older releases wrote absolute paths here.
IGNORED_FILES = (
    "added_tokens_file",
    "chat_template_file",
    "special_tokens_map_file",
    "tokenizer_config_file",
    "tokenizer_file",
)
LOUD = ("transformers", "huggingface_hub", "datasets")  # libraries that write to stderr by handlers of their own
IMPLEMENTATION = ("_implementation", "_implementation_internal")  # of attention and the like: a kernel of the hub


def load(loader: Any, model: str | Path, **arguments: Any) -> Any:
    """Load by `loader.from_pretrained` from a folder or a hub id: safetensors alone, and no code.

    Raises UsageError as `refuse_code`, and what transformers raises where it cannot load the model.
    """
    refuse_code(model)
    log_through_root()
    if "Model" in loader.__name__:  # a tokenizer would keep the argument among its settings
        arguments["use_safetensors"] = True
    return loader.from_pretrained(model, trust_remote_code=False, **arguments)


def log_through_root() -> None:
    """Leave the libraries' logs to Python's root logger, and switch their progress bars off.

    They name tensors and settings of a folder, in which anything may stand; schemas.console shows such texts.
    """
    from transformers.utils import loading_report
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    loading_report.PALETTE.update(dict.fromkeys(loading_report.PALETTE, ""))  # else its colours are shown as escapes
    for name in LOUD:
        library = logging.getLogger(name)
        library.propagate = True
        for handler in library.handlers[:]:
            if type(handler) is logging.StreamHandler:
                library.removeHandler(handler)


def refuse_code(model: str | Path) -> None:
    """Raise UsageError where a model folder or an adapter's base asks for code to be run, or for files elsewhere.

    It names file and key. A hub id passes: its files are not here yet, and nothing loads it with its code.
    """
    folders = _folders(model)
    seen: set[Path] = set()
    while folders:
        folder = folders.pop(0)
        if not os.path.isdir(folder) or folder.resolve() in seen:
            continue
        seen.add(folder.resolve())
        for path in sorted({path for pattern in SETTINGS for path in folder.glob(pattern)}):
            for key, value in _code(read_settings(path)):
                raise UsageError(
                    f"{path}: {key} = {json.dumps(value)[:200]} asks for code to be run, and no such model is loaded; "
                    "take the key out if transformers knows this kind of model by itself"
                )
        if (path := folder / TOKENIZER_SETTINGS).is_file():
            for key, name in _named_files(read_settings(path)):
                check_name(name, f"{path}: {key}")
        for path in sorted(folder.glob(INDEX)):
            files = read_object(path).get("weight_map")
            for name in dict.fromkeys(map(str, files.values() if isinstance(files, dict) else ())):
                if not check_name(name, str(path)).endswith(".safetensors"):
                    raise UsageError(f"{path}: names {name!r}; weights are loaded from *.safetensors alone")
        adapter = folder / "adapter_config.json"
        base = read_object(adapter).get("base_model_name_or_path") if adapter.is_file() else None
        folders += _folders(base) if isinstance(base, str) else []


def _folders(model: str | Path) -> list[Path]:
    """Return the folders that a model may mean: transformers takes a leading `~` as it is, we expand it."""
    return [Path(model), Path(os.path.expanduser(model))]


def read_settings(path: Path) -> Any:
    """Return the JSON of a model folder's file; UsageError where it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read as JSON: {error}") from error


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object of a model folder's file; UsageError where it is none."""
    if not isinstance(settings := read_settings(path), dict):
        raise UsageError(f"{path}: expected a JSON object")
    return settings


def _code(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every key under which settings ask for code, at any depth, with its value."""
    items = settings if isinstance(settings, dict) else dict(enumerate(settings if isinstance(settings, list) else ()))
    for key, value in items.items():
        name = f"{prefix}{key}"
        if value and _runs_code(str(key), value):
            yield name, value
        elif isinstance(value, dict | list):
            yield from _code(value, f"{name}.")


def _named_files(settings: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield every key under which a tokenizer's settings name a file that it may read, at any depth, with the name."""
    for key, value in settings.items() if isinstance(settings, dict) else ():
        if key in FILE_LISTS and isinstance(value, list):
            yield from ((f"{prefix}{key}", name) for name in value if isinstance(name, str))
        elif isinstance(value, dict):
            yield from _named_files(value, f"{prefix}{key}.")
        elif value and isinstance(value, str) and key not in IGNORED_FILES and (key in FILES or key.endswith("_file")):
            yield f"{prefix}{key}", value


def _runs_code(key: str, value: Any) -> bool:
    if key == "auto_mapping":  # of an adapter: the module that holds its base's class
        library = value.get("parent_library") if isinstance(value, dict) else value
        return not str(library).startswith("transformers.")
    if key == "type":  # of a part of a sentence-transformers model
        return "." in str(value) and not str(value).startswith("sentence_transformers.")
    return key in CODE or (key.endswith(IMPLEMENTATION) and "/" in json.dumps(value))
