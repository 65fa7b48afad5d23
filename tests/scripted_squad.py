"""Squads of scripted models: their files, tables for them, and the command that aligns."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from pipelines.commands import align
from schemas.settings import Layer, resolve
from schemas.tables import RESPONSES
from transforms.tables.write import write_tables

ALIGNER = {"engine": "scripted", "args": {"function": "tests.scripted_models:aligner"}}
LONG = {"criterion": "long", "inspector": "scripted:tests.scripted_models:lengths", "aligner": "x", "engine": ALIGNER}
OPEN = {"criterion": "open", "inspector": "scripted:tests.scripted_models:vowels", "aligner": "y", "engine": ALIGNER}


def squad_file(tmp_path, members=(LONG, OPEN), **settings) -> str:
    path = tmp_path / "squad.yaml"
    path.write_text(yaml.safe_dump({"members": list(members), **settings}))
    return str(path)


def config(tmp_path, source, squad, **settings):
    given = {"corpus": source, "squad": squad, "output": str(tmp_path / "run"), **settings}
    return resolve(align.Config, [Layer("test", given)]).config


def aligned(config):
    """The stage that the command does last."""
    return align.align_corpus(config)[-1]


def shards(tmp_path, *parts) -> str:
    """A table whose shards hold these rows, some of them none."""
    folder = tmp_path / "table"
    tables = {"responses": pa.Table.from_pylist([row for part in parts for row in part], RESPONSES)}
    write_tables(str(folder), tables, {"stage": "made"}, 1000)
    manifest = json.loads((folder / "manifest.json").read_text())
    listed = []
    for number, part in enumerate(parts):
        path = folder / "responses" / f"shard-{number:05d}.parquet"
        pq.write_table(pa.Table.from_pylist(part, RESPONSES), path)
        listed.append({"path": f"responses/{path.name}", "rows": len(part), "bytes": 1, "digest": str(number)})
    manifest["tables"]["responses"]["shards"] = listed
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return str(folder)


def made(start, count):
    return [{"id": f"{n:03d}", "question": f"q{n:03d}", "response": "bcda" * (n % 9 + 1)} for n in range(start, count)]
