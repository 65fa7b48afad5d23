"""alignbeam: from a criterion in plain text to an aligned corpus.

    alignbeam doctor                                         what this installation can do
    alignbeam align data.parquet --aligner A --inspector I -o out --limit 20
    alignbeam show out --diff                                before, after, scores
    alignbeam status out ; alignbeam report out ; alignbeam diff out other ; alignbeam clean out
    alignbeam check mine.yaml                                a criterion pack, a recipe or a corpus; loads no model
    alignbeam run recipe.yaml -o runs/mine --limit 50        the steps of a recipe; --plan says what they cost
    alignbeam reproduce 000:table1 -o runs/paper             a paper's table, its values and ours
    alignbeam train inspector|aligner|squad ... ; alignbeam evaluate ... ; alignbeam import ... ; alignbeam curate ...

Every stage kind is a command too: align, conflicts, curate, derive, evaluate, import, questions, respond, score,
shards, train_aligner, train_inspector, triples. `alignbeam COMMAND --help` explains each.
Exit codes: 0 done, 1 failed, 2 wrong use, 3 done with rejects, 130 interrupted.
"""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

PACKAGES = ("schemas", "transforms", "pipelines", "training")
COMMANDS = {
    "align": "pipelines.commands.align",
    "check": "pipelines.commands.check",
    "clean": "pipelines.commands.clean",
    "curate": "pipelines.commands.curate",
    "diff": "pipelines.commands.diff",
    "doctor": "pipelines.commands.doctor",
    "evaluate": "pipelines.commands.evaluate",
    "import": "pipelines.ingest",
    "report": "pipelines.report.page",
    "reproduce": "pipelines.commands.reproduce",
    "run": "pipelines.commands.run",
    "show": "pipelines.commands.show",
    "status": "pipelines.commands.status",
    "train": "pipelines.commands.train",
}
DONE, WRONG_USE = 0, 2
# What a Python user needs, and where it lies; loaded when it is first asked for (docs/library.md).
LIBRARY = {
    **dict.fromkeys(("run", "read", "score", "align", "field"), "pipelines.commands.library"),
    **dict.fromkeys(("Align",), "transforms.alignment.align"),
    **dict.fromkeys(("Score",), "transforms.alignment.scoring"),
    **dict.fromkeys(("Generate", "Model"), "transforms.generation.generate"),
    **dict.fromkeys(("EngineConfig", "Sampling"), "transforms.engines.engine"),
    **dict.fromkeys(("MapBatches",), "transforms.tables.chunks"),
    **dict.fromkeys(("ReadTable",), "transforms.tables.read"),
    **dict.fromkeys(("SplitMarks", "WriteTables"), "transforms.tables.write"),
    **dict.fromkeys(("run_pipeline",), "pipelines.runtime.beam"),
    **dict.fromkeys(("StageKind", "complete_step"), "pipelines.runtime.step"),
    **dict.fromkeys(("setting", "takes", "uses"), "schemas.fields"),
    **dict.fromkeys(("STAGES",), "pipelines.recipe.registry"),
    **dict.fromkeys(("StageError", "UsageError"), "schemas.errors"),
}
__all__ = list(LIBRARY)


def __getattr__(name: str) -> Any:
    if name not in LIBRARY:
        raise AttributeError(f"module 'alignbeam' has no attribute {name!r}; it gives {', '.join(LIBRARY)}")
    return getattr(importlib.import_module(LIBRARY[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *LIBRARY])


def intruders() -> list[str]:
    """Return modules of other projects that stand where ours should be, as `name (folder)`."""
    root = Path(__file__).resolve().parent
    strangers = []
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        folders = list(spec.submodule_search_locations or [spec.origin or ""]) if spec else []
        if not any(Path(folder).resolve().parent == root for folder in folders):
            strangers.append(f"{name} ({folders[0] if folders else 'not found'})")
    return strangers


def refuse_intruders() -> None:
    """Exit with code 2, naming them, where modules of other projects hide alignbeam's own."""
    if strangers := intruders():
        # Our console may be among what is hidden, so the path is made printable by hand.
        shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in ", ".join(strangers))
        print(f"error: modules of another project hide alignbeam's own: {shown}", file=sys.stderr)
        print("start alignbeam from another directory, or take that one off PYTHONPATH", file=sys.stderr)
        raise SystemExit(WRONG_USE)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return DONE if arguments else WRONG_USE
    if arguments[0] == "--version":
        print(__version__)
        return DONE
    refuse_intruders()
    command, *rest = arguments
    if command in COMMANDS:
        return importlib.import_module(COMMANDS[command]).main(rest)
    from pipelines.recipe.registry import STAGES  # every other stage kind is a command too

    if command in STAGES:
        from pipelines.runtime import entrypoint

        kind = STAGES[command]
        return entrypoint.main(kind, sys.modules[kind.config.__module__].__doc__, rest)
    from schemas.console import messages
    from schemas.recipe import near

    messages.print(f"error: no command {command!r}; {near(command, sorted({*COMMANDS, *STAGES}))}", soft_wrap=True)
    return WRONG_USE


if __name__ == "__main__":
    sys.exit(main())
