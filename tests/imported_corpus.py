"""Corpora as files, and what an import makes of them."""

import json

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import ingest
from transforms.tables.identity import content_id


def imported(path, out, **settings):
    stage = ingest.import_into(ingest.Config(corpus=str(path), **settings), str(out))
    kind = settings.get("kind", "responses")
    rejects = stage.table("rejects").to_arrow().select(["line", "error"]).to_pylist()
    return stage.table(kind).to_arrow().to_pylist(), [(row["line"], row["error"]) for row in rejects]


ROWS = [{"question": "Why?", "response": "So.", "score": 3}, {"question": "Who?", "response": "Me.", "score": 4}]


def lines(rows):
    return "\n".join(json.dumps({"question": f"{content_id(str(n))}?", "response": "x"}) for n in range(rows)).encode()


def write_folder(path, **files):
    path.mkdir()
    for name, rows in files.items():
        if isinstance(rows, pa.Table):
            pq.write_table(rows, path / f"{name}.parquet")
        else:
            (path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return path
