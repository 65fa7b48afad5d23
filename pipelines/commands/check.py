"""Check a criterion pack, a recipe, a squad file, a corpus or a table before anything is spent on it; loads no model.

All that is wrong is told at once, with file, line and key.

    alignbeam check mine.yaml
    alignbeam check recipe.yaml
    alignbeam check squad.yaml
    alignbeam check answers.jsonl.gz --kind responses
"""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import get_args

from pipelines.recipe.graph import Told, print_steps, read_graph
from pipelines.recipe.models import named_already
from pipelines.recipe.old_form import OLD_KEYS
from pipelines.recipe.read import NEW_KEYS, recipe_names
from pipelines.recipe.registry import STAGES
from schemas.command_line import DONE, DONE_WITH_REJECTS, WRONG_USE, Parser, exit_code
from schemas.console import messages
from schemas.criteria.pack import check_pack, load_pack
from schemas.errors import UsageError
from schemas.settings import read_yaml
from schemas.squads import PROMPTED, SquadMember, is_folder, load_squad
from transforms.alignment.members import adapters_of
from transforms.corpora import records
from transforms.corpora.fields import Kind, look_at, read_chunks, schema_of
from transforms.engines.weights import Weights
from transforms.tables import storage
from transforms.tables.table import MANIFEST, read_manifest, read_table

CORPUS_ROWS = 10_000


def check_recipe(path: str, *, prints_steps: bool = False) -> int:
    """Check a whole recipe: names, settings, columns, packs, files and models.

    A model may still be missing (`--model` names one).
    """
    graph = read_graph(path, STAGES, Told(is_look=True), looks_outside=True)
    graph.check_outside()
    if prints_steps:
        return print_steps(graph)
    kinds = Counter(step.kind.name for step in graph.steps)
    named = ", ".join(f"{count} {kind}" if count > 1 else kind for kind, count in kinds.items())
    missing = [name for name, entry in graph.recipe.get("models", {}).items() if not named_already(entry)]
    more = f"; --model has to name {', '.join(missing)}" if missing else ""
    messages.print(f"{path}: a recipe of {len(graph.steps)} steps ({named}); nothing wrong{more}", soft_wrap=True)
    return DONE


def check_squad(path: str) -> int:
    """Check a squad file, its packs, and the folders of its inspectors and adapters."""
    squad = load_squad(path)
    adapters = adapters_of(squad, {})
    for member in squad.members:
        if member.pack:
            load_pack(member.pack)
    named = ", ".join(f"{member.criterion} ({aligner_kind(member, adapters)})" for member in squad.members)
    messages.print(f"{path}: a squad, routing {squad.routing}: {named}; nothing wrong")
    return DONE


def aligner_kind(member: SquadMember, adapters: Mapping[str, Weights]) -> str:
    if member.criterion in adapters:
        return f"an adapter on {adapters[member.criterion].model}"
    return f"{'model' if is_folder(member) else 'served'} {member.aligner}" if not member.pack else PROMPTED


def check_criterion(path: str) -> int:
    """Print all mistakes of a pack, each with file, line and field."""
    problems = check_pack(path)
    for problem in problems:
        messages.print(f"{problem.level}: {problem.file}:{problem.line}: {problem.field}: {problem.message}")
    if any(problem.level == "error" for problem in problems):
        return WRONG_USE
    pack = load_pack(path)
    messages.print(
        f"{path}: a pack with {len(pack.principles)} principles, {len(pack.demonstrations)} demonstrations and "
        f"{len(pack.seeds)} seeds; {'nothing wrong' if not problems else 'usable'}",
    )
    return DONE


def check_corpus(path: str, kind: Kind) -> int:
    """Print columns, and what is wrong with the first 10,000 rows of each file."""
    rejects = 0
    for file in records.find_files(path):
        look = look_at(file, kind, {}, CORPUS_ROWS)
        columns, schema = look.columns, schema_of(kind, [look])
        errors: Counter[str] = Counter()
        rows = 0
        for chunk in read_chunks(0, file, kind, columns, schema, CORPUS_ROWS):
            rows += chunk.rows
            errors.update(error for error in chunk.batch.column("error").to_pylist() if error)
        named = ", ".join(f"{ours} from {theirs!r}" for ours, theirs in columns.items())
        wrong = ", ".join(f"{count:,} {error}" for error, count in errors.most_common()) or "nothing wrong"
        messages.print(f"{file}: {named}; {rows:,} rows read: {wrong}")
        rejects += errors.total()
    return DONE_WITH_REJECTS if rejects else DONE


def check_table(path: str) -> int:
    """Print each table that a stage wrote, with rows and columns.

    Raises UsageError where a shard is not whole.
    """
    read_table(path)
    manifest = read_manifest(path)
    for name in manifest["tables"]:
        table = read_table(path, name)
        messages.print(
            f"{path}: {name}, made by {manifest['stage']}: {table.rows:,} rows in {len(table.shards)} shards; "
            f"columns {', '.join(table.schema.names)}",
        )
    return DONE


def check(path: str, kind: Kind, *, prints_steps: bool = False) -> int:
    """Tell what `path` is, and check it as that."""
    if path in recipe_names():
        return check_recipe(path, prints_steps=prints_steps)
    if storage.exists(storage.join(path, MANIFEST)):
        return check_table(path)
    if not path.endswith((".yaml", ".yml")):
        return check_corpus(path, kind)
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected settings by name, found {type(content).__name__}")
    if "members" in content:
        return check_squad(path)
    is_recipe = (NEW_KEYS | OLD_KEYS | {"models"}) & content.keys()
    return check_recipe(path, prints_steps=prints_steps) if is_recipe else check_criterion(path)


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser("alignbeam check", __doc__)
    parser.add_argument(
        "path",
        help="a pack, a recipe or a squad file (YAML), a corpus (file, folder or glob) or a table that a stage made",
    )
    parser.add_argument("--kind", choices=get_args(Kind), default="responses", help="what a corpus should be")
    parser.add_argument("--print-steps", action="store_true", help="of a recipe: every step with all it takes")
    arguments = parser.parse_args(argv)
    return exit_code(lambda: check(arguments.path, arguments.kind, prints_steps=arguments.print_steps))


if __name__ == "__main__":
    sys.exit(main())
