"""alignbeam: from a criterion in plain text to an aligned corpus.

    alignbeam doctor                                         what this installation can do
    alignbeam align data.parquet --aligner A --inspector I -o out --limit 20
    alignbeam show out --diff                                before, after, scores
    alignbeam status out ; alignbeam report out
    alignbeam check mine.yaml                                a criterion pack, a recipe or a corpus; loads no model
    alignbeam run recipe.yaml --model Qwen/Qwen3-8B -o runs/mine --limit 50
    alignbeam train inspector|aligner|squad ... ; alignbeam evaluate ... ; alignbeam import ... ; alignbeam curate ...

`alignbeam COMMAND --help` explains each. Exit codes: 0 done, 1 failed, 2 wrong use, 3 done with rejects.
"""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

__version__ = "0.1.0"

PACKAGES = ("schemas", "transforms", "pipelines", "training")
COMMANDS = {
    "align": "pipelines.commands.align",
    "check": "pipelines.commands.check",
    "curate": "pipelines.commands.curate",
    "doctor": "pipelines.commands.doctor",
    "evaluate": "pipelines.commands.evaluate",
    "import": "pipelines.ingest",
    "report": "pipelines.report.page",
    "run": "pipelines.commands.run",
    "show": "pipelines.commands.show",
    "status": "pipelines.commands.status",
    "train": "pipelines.commands.train",
}
DONE, WRONG_USE = 0, 2


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
    if command not in COMMANDS:
        from schemas.console import messages

        messages.print(f"error: no command {command!r}; one of {', '.join(COMMANDS)}", soft_wrap=True)
        return WRONG_USE
    return importlib.import_module(COMMANDS[command]).main(rest)


if __name__ == "__main__":
    sys.exit(main())
