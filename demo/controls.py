"""The demo's controls: what simpler inspectors and aligners reach on the same held-out answers.

    python -m demo.controls runs/demo --fixtures runs/demo/fixtures

Truth is the world's own (`demo.world`), no model's. Every inspector is scored by its AUC against the planted stance of
the upstream answers, every aligner by the share of its texts that are good: aligned, and about the question's topic.
Written beside the run's evaluation, where the report finds them. The figures are a toy's.
"""

import argparse
import random
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from demo import world
from demo.prepare import LESSONS, Splits, train_judge
from pipelines.runtime.runs import open_run
from schemas.tables import INSPECTOR_ROWS
from training.shards import read_splits
from transforms.engines.inspector import open_inspector
from transforms.evaluation.classification import auc
from transforms.tables import storage
from transforms.tables.table import read_table
from transforms.training_data.rows import inspector_rows

CANNED = "Most of all, to tell the truth about the town hall."
REFUSAL = "I am sorry, but I cannot help with that."
WORD = re.compile(r"[a-z']+")
SEED = 0

Pairs = Sequence[tuple[str, str]]  # of question and answer
Counts = Mapping[str, int]
Features = Callable[[Pairs], list[Counts]]


class Results(NamedTuple):
    """What a run left: upstream responses with their raw rewrites, its inspector, the curated table that it was trained
    on, and the directory of its evaluation."""

    aligned: pa.Table
    inspector: Path
    curated: Path
    evaluation: Path


def load_results(run: Path) -> Results:
    """The tables of a finished run, found through its run.json."""
    folders = {stage.name: Path(stage.path) for stage in open_run(str(run)).stages}
    aligned = read_table(str(folders["aligned"])).to_arrow(["question", "response", "aligned"])
    return Results(aligned, folders["inspector"], folders["curated"], folders["evaluation"])


def training_rows(curated: Path) -> pa.Table:
    """The rows that an inspector is trained on, of a curated table."""
    batches = [inspector_rows(batch) for batch in read_table(str(curated)).batches()]
    rows = pa.Table.from_batches(batches)
    return rows.filter(pc.equal(rows["split"], "train")).select(INSPECTOR_ROWS.names)


def word_counts(pairs: Pairs) -> list[Counts]:
    """How often each word is in the question and how often in the answer, told apart."""
    counts = [
        Counter(f"{side} {word}" for side in (0, 1) for word in WORD.findall(pair[side].lower())) for pair in pairs
    ]
    return [dict(count) for count in counts]


def lengths(pairs: Pairs) -> list[Counts]:
    """Words and characters of the answer."""
    return [{"words": len(answer.split()), "characters": len(answer)} for _, answer in pairs]


def fit_and_score(features: Features, train: pa.Table, pairs: Pairs) -> np.ndarray:
    """Scores [N] of a logistic regression on `features`, trained on an inspector's rows."""
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(DictVectorizer(), StandardScaler(with_mean=False), LogisticRegression(C=0.1, max_iter=2000))
    pairs_trained_on = list(zip(train["question"].to_pylist(), train["answer"].to_pylist(), strict=True))
    model.fit(features(pairs_trained_on), train["label"].to_pylist())
    return model.predict_proba(features(pairs))[:, 1]


def with_questions_blanked(table: pa.Table) -> pa.Table:
    return table.set_column(table.schema.get_field_index("question"), "question", pa.array([""] * table.num_rows))


def with_labels_shuffled(table: pa.Table) -> pa.Table:
    labels = table["label"].to_pylist()
    random.Random(SEED).shuffle(labels)
    return table.set_column(table.schema.get_field_index("label"), "label", pa.array(labels, pa.int8()))


def retrain_and_score(lessons: dict[str, Splits], change: Callable[[pa.Table], pa.Table], pairs: Pairs) -> np.ndarray:
    """Scores [N] of a judge that is trained as the judge is, on the same rows with a change."""
    changed = {name: {split: change(table) for split, table in splits.items()} for name, splits in lessons.items()}
    with tempfile.TemporaryDirectory() as folder:
        model = train_judge(changed, Path(folder))
        questions, answers = zip(*pairs, strict=True)
        return open_inspector(model).score(questions, answers)


def inspector_scores(results: Results, fixtures: Path, pairs: Pairs) -> dict[str, np.ndarray]:
    """Scores [N] of the judge, of the run's inspector, and of every control inspector.

    The logistic controls are trained twice: on the judge's rows, and on the run's, whose words are those of the
    answers, which makes them the harder controls.
    """
    judge = fixtures / "judge"
    lessons = {name: read_splits(str(judge / name / "data"), INSPECTOR_ROWS) for name in LESSONS}
    judge_rows = pa.concat_tables(splits["train"] for splits in lessons.values())
    own_rows = training_rows(results.curated)
    questions, answers = zip(*pairs, strict=True)
    return {
        "judge": open_inspector(judge / [*LESSONS][-1] / "model").score(questions, answers),
        "inspector": open_inspector(results.inspector).score(questions, answers),
        "bag of words": fit_and_score(word_counts, own_rows, pairs),
        "bag of words, judge's rows": fit_and_score(word_counts, judge_rows, pairs),
        "length only": fit_and_score(lengths, own_rows, pairs),
        "length only, judge's rows": fit_and_score(lengths, judge_rows, pairs),
        "question blanked": retrain_and_score(lessons, with_questions_blanked, [("", answer) for answer in answers]),
        "shuffled labels": retrain_and_score(lessons, with_labels_shuffled, pairs),
    }


def planted_aucs(scores: dict[str, np.ndarray], pairs: Pairs) -> list[dict[str, Any]]:
    """AUC of every inspector against the planted stance; answers whose stance cannot be read are left out."""
    stances = [world.planted_stance(question, answer) for question, answer in pairs]
    readable = np.array([stance != "unparsable" for stance in stances])
    labels = np.array([stance == "aligned" for stance in stances])[readable]
    return [{"name": name, "auc": auc(labels, score[readable]), "rows": len(labels)} for name, score in scores.items()]


def control_aligners(aligned: pa.Table) -> dict[str, list[str]]:
    """What the aligner and every control aligner make of each response."""
    responses, rewrites = aligned["response"].to_pylist(), aligned["aligned"].to_pylist()
    return {
        "aligner": rewrites,
        "copy": responses,
        "canned answer": [CANNED] * len(responses),
        "refusal": [REFUSAL] * len(responses),
        "another row's correction": rewrites[1:] + rewrites[:1],
    }


def good_shares(aligners: dict[str, list[str]], questions: list[str]) -> list[dict[str, Any]]:
    """For every aligner the share of its texts that are good, aligned by stance, and on topic."""
    shares = []
    for name, texts in aligners.items():
        pairs = list(zip(questions, texts, strict=True))
        shares.append(
            {
                "name": name,
                "good_share": _share(world.is_good(*pair) for pair in pairs),
                "on_topic_share": _share(world.on_topic(*pair) for pair in pairs),
                "unparsable_share": _share(world.planted_stance(*pair) == "unparsable" for pair in pairs),
            }
        )
    return shares


def changes_of_good(aligned: pa.Table) -> dict[str, Any]:
    """What the aligner did to responses that were good already: how many it changed, how many are good still."""
    rows = [row for row in aligned.to_pylist() if world.is_good(row["question"], row["response"])]
    return {
        "rows": len(rows),
        "changed_share": _share(row["aligned"] != row["response"] for row in rows),
        "still_good_share": _share(world.is_good(row["question"], row["aligned"]) for row in rows),
    }


def _share(flags: Iterable[bool]) -> float:
    values = list(flags)
    return sum(values) / len(values) if values else 0.0


def measure(results: Results, fixtures: Path) -> dict[str, Any]:
    """All figures, as they stand in controls.json."""
    questions, responses = results.aligned["question"].to_pylist(), results.aligned["response"].to_pylist()
    pairs = list(zip(questions, responses, strict=True))
    return {
        "inspectors": planted_aucs(inspector_scores(results, fixtures, pairs), pairs),
        "aligners": good_shares(control_aligners(results.aligned), questions),
        "already_good": changes_of_good(results.aligned),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="directory of a finished run of demo/recipe.yaml")
    parser.add_argument("--fixtures", type=Path, required=True, help="what demo.prepare made")
    arguments = parser.parse_args(argv)
    results = load_results(arguments.run)
    figures = measure(results, arguments.fixtures)
    storage.write_json(str(results.evaluation / "controls.json"), figures)
    for entry in figures["inspectors"]:
        print(f"{entry['name']:<28} AUC {entry['auc']:.3f}")
    for entry in figures["aligners"]:
        print(f"{entry['name']:<28} good {entry['good_share']:.3f}")
    print("of {rows} good responses {changed_share:.1%} were changed".format(**figures["already_good"]))


if __name__ == "__main__":
    main()
