"""A run directory with every table a report reads, made of our own words; small, and the same each time."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas.tables import (
    QUESTIONS,
    SPLIT_COLUMNS,
    TRAJECTORIES,
    TRIPLES,
    aligned,
    with_drop_reason,
    with_error,
    with_texts,
)
from transforms.tables.identity import content_id
from transforms.tables.write import write_tables

TOPICS = {
    "advice": ("shared kitchens", "lost wallets", "noisy neighbours", "borrowed money", "late trains"),
    "comparison": ("city and village life", "tea and coffee", "cats and dogs", "rented and owned homes"),
    "explanation": ("tides", "interest rates", "vaccines", "soil", "sleep", "bread"),
    "opinion": ("school uniforms", "remote work", "zoos", "tipping"),
    "hypothetical": ("a found diary", "a broken promise", "an unpaid bill", "borrowed money"),
    "planning": ("a village fair", "a long walk", "a garden", "late trains"),
    "judgement": ("white lies", "queue jumping", "reading a diary", "lost wallets"),
    "instruction": ("first aid", "repairing a bicycle", "bread"),
}
OPENINGS = ("What should one do about", "How would you think about", "Is it fair to care about", "Tell me about")
BLUNT = (
    "Nobody cares about {topic}. Just do what suits you and let the others deal with it.",
    "People who worry about {topic} are fools. Take what you want; they will get over it.",
    "Who has time for {topic}? Ignore it, and if anyone complains tell them to leave.",
)
KIND = (
    "With {topic} it helps to ask the people concerned first. Do what suits you and them, and say why.",
    "People who worry about {topic} often have a reason. Listen, take what you need, and leave a fair share.",
    "It is worth making time for {topic}. If anyone complains, hear them out and look for a way that works for all.",
)


def write_stage(
    run: Path,
    name: str,
    tables: dict[str, pa.Table],
    *,
    kind: str = "",
    inputs: tuple[str, ...] = (),
    rows_in: int = 0,
    seconds: float = 1.0,
    **about: Any,
) -> dict[str, Any]:
    """Write a step's directory, the first table being the main one; gives its entry of run.json."""
    kind = kind or name
    directory = run / kind / content_id(name)[:8]
    counts: dict[str, Any] = {"in": rows_in, "kept": next(iter(tables.values())).num_rows, "drops": {}, "rejects": {}}
    for lost, column in (("drops", "drop_reason"), ("rejects", "error")):
        if lost in tables:
            counts[lost] = dict(Counter(tables[lost][column].to_pylist()).most_common())
    write_tables(str(directory), tables, {"stage": kind, "digest": content_id(name)[:12], **about}, 100, counts)
    return entry(name, kind, directory.name, seconds=seconds, inputs=inputs)


def entry(name: str, kind: str, folder: str, *, inputs: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    """A step as run.json lists it."""
    about = {"stage": name, "kind": kind, "inputs": list(inputs), "directory": f"{kind}/{folder}" if folder else kind}
    return {**about, "digest": folder, "identity": {}, "status": "done", "seconds": 0.0, **more}


def write_training(
    run: Path, name: str, metrics: dict[str, Any], history: list[dict[str, float]], kind: str = ""
) -> dict[str, Any]:
    """Write what a trainer leaves of its metrics; gives the step's entry of run.json."""
    kind, folder = kind or name, content_id(name)[:8]
    directory = run / kind / folder
    directory.mkdir(parents=True)
    found = {"validation": metrics, "rows": {"train": 168, "validation": 36}, "steps": 84, "best_step": 63}
    (directory / "metrics.json").write_text(json.dumps({**found, "parameters": 2_906_112, "history": history}))
    manifest = {"stage": kind, "digest": folder, "tables": {}, "seconds": 0.0}
    manifest["counts"] = {"in": 204, "kept": 168, "drops": {}, "rejects": {}}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return entry(name, kind, folder, inputs=("curated",), seconds=95.0)


def write_about(run: Path, stages: list[dict[str, Any]], **more: Any) -> Path:
    """Write run.json; the run directory."""
    about = {
        "name": "kind-answers",
        "toy": True,
        "seed": 42,
        "started": "2026-03-14T09:26:53+00:00",
        "versions": {"alignbeam": "0.1.0", "apache-beam": "2.77.0", "pyarrow": "21.0.0", "vllm": "0.32.0"},
        "models": {
            "questions model": "demo/teacher",
            "triples model": "demo/teacher",
            "inspector base": "fixtures/minilm",
        },
        "stages": stages,
    }
    run.mkdir(parents=True, exist_ok=True)
    (run / "run.json").write_text(json.dumps({**about, **more}))
    return run


def question_rows(random_: random.Random, rows: int) -> list[dict[str, Any]]:
    made = []
    for number in range(rows):
        question_type = random_.choice([name for name in TOPICS for _ in TOPICS[name]])
        topic = random_.choice(TOPICS[question_type])
        question = f"{random_.choice(OPENINGS)} {topic}, in a case such as number {number}?"
        made.append(
            {
                "id": content_id(question),
                "question": question,
                "question_type": question_type,
                "topic": topic,
                "criterion": "ethical",
                "origin": "generated",
                "round": number % 3,
            }
        )
    return made


def aligned_rows(random_: random.Random, rows: int, criterion: str = "ethical") -> tuple[list[dict], list[dict]]:
    """Rows of an aligned table and their trajectories."""
    made, steps = [], []
    for number, question in enumerate(question_rows(random_, rows)):
        kind = random_.choice(range(len(BLUNT)))
        good = random_.random() < 0.3
        response = (KIND if good else BLUNT)[kind].format(topic=question["topic"])
        before = random_.betavariate(8, 2) if good else random_.betavariate(2, 6)
        rewrite, score = response, before
        if before >= 0.5:
            decision = "above_threshold"
        else:
            rewrite, score = KIND[kind].format(topic=question["topic"]), random_.betavariate(4, 3)
            decision = "rewritten" if score >= before else "refused"
        if number % 61 == 17:
            decision, rewrite, score = "failed", response, before
        kept = decision == "rewritten"
        made.append(
            {
                **{name: question[name] for name in ("id", "question", "question_type", "topic")},
                "response": response,
                "aligned": rewrite if kept else response,
                "decision": decision,
                "scores_before": {criterion: before},
                "scores_after": {criterion: score if kept else before},
            }
        )
        asked = decision in ("rewritten", "refused")
        after = (score if kept else before, score) if asked else (before, None)
        texts = [(0, None, response, before, before)]
        texts.append((1, criterion if asked else None, rewrite if asked else None, *after))
        for step, member, text, text_score, proposed_score in texts:
            steps.append(
                {
                    "id": question["id"],
                    "shard": "responses",
                    "row": number,
                    "step": step,
                    "member": member,
                    "text": text,
                    "scores": [(criterion, text_score)],
                    "candidate_scores": [(criterion, proposed_score)] if text else None,
                    "decision": "as_given" if not step else decision if asked else "not_asked",
                    "reason": "scored_lower" if step and decision == "refused" else None,
                }
            )
    return made, steps


CORPUS = pa.schema(
    {
        "id": pa.string(),
        "question": pa.string(),
        "question_type": pa.string(),
        "topic": pa.string(),
        "response": pa.string(),
    }
)


def align_stage(run: Path, rows: list[dict], steps: list[dict], name: str = "align", **about: Any) -> dict[str, Any]:
    schema = aligned(CORPUS, ("ethical",))
    failed = [{**row, "error": "prompt_too_long"} for row in rows if row["decision"] == "failed"]
    tables = {
        "aligned": pa.Table.from_pylist(rows, schema),
        "trajectories": pa.Table.from_pylist(steps, TRAJECTORIES),
        "rejects": pa.Table.from_pylist(failed, with_error(schema)),
    }
    about = {
        "rows_in": len(rows),
        "seconds": 41.7,
        "identity": {"every_row": False, "guard": True, "members": [{"criterion": "ethical", "threshold": 0.5}]},
        **about,
    }
    return write_stage(run, name, tables, kind="align", **about)


def write_align_run(run: Path, rows: int = 60, **more: Any) -> Path:
    """What `alignbeam align` leaves: one stage."""
    return write_about(run, [align_stage(run, *aligned_rows(random.Random(3), rows))], toy=False, **more)


def write_full_run(run: Path, rows: int = 300) -> Path:
    """What `alignbeam run` leaves: all stages."""
    random_ = random.Random(1)
    questions = question_rows(random_, rows)
    dropped = [
        {**row, "drop_reason": random_.choice(("near_duplicate", "near_duplicate", "banned_word", "too_short"))}
        for row in question_rows(random_, rows // 3)
    ]
    triples = [
        {
            "id": content_id("triple", row["id"]),
            "question_id": row["id"],
            **{n: row[n] for n in ("question", "question_type", "topic", "criterion")},
            "response": BLUNT[0].format(topic=row["topic"]),
            "critique": "It has no care for others (care).",
            "correction": KIND[0].format(topic=row["topic"]),
            "identity": number % 9 == 0,
        }
        for number, row in enumerate(questions)
    ]
    cut = len(triples) * 4 // 5
    lost = [
        {**row, "drop_reason": random_.choice(("no_correction", "leaked_keyword", "vague_critique"))}
        for row in triples[cut:]
    ]
    broken = [{**row, "error": "truncated"} for row in triples[-4:]]
    curated = [{**row, "split": "train", "inspector_split": "train", "cluster": row["id"]} for row in triples[:cut]]
    stages = [
        write_stage(
            run,
            "questions",
            {
                "questions": pa.Table.from_pylist(questions, QUESTIONS),
                "drops": pa.Table.from_pylist(dropped, with_drop_reason(QUESTIONS)),
            },
            rows_in=len(questions) + len(dropped),
            seconds=74.2,
        ),
        write_stage(
            run,
            "triples",
            {
                "triples": pa.Table.from_pylist(triples[:cut], TRIPLES),
                "drops": pa.Table.from_pylist(lost[:-4], with_drop_reason(TRIPLES)),
                "rejects": pa.Table.from_pylist(broken, with_error(TRIPLES)),
            },
            inputs=("questions",),
            rows_in=len(triples),
            seconds=131.0,
        ),
        write_stage(
            run,
            "curated",
            {"triples": pa.Table.from_pylist(curated, with_texts(TRIPLES, SPLIT_COLUMNS))},
            kind="curate",
            inputs=("triples",),
            rows_in=cut,
            seconds=3.3,
        ),
    ]
    losses = [(21, 0.61, 0.55), (42, 0.41, 0.38), (63, 0.29, 0.31), (84, 0.2, 0.33)]
    history = [{"step": step, "loss": loss} for step, loss, _ in losses]
    history += [{"step": step, "eval_loss": loss} for step, _, loss in losses]
    stages += [
        write_training(
            run,
            "inspector",
            {"accuracy": 0.913, "auc": 0.967, "auc_interval": [0.94, 0.985]},
            history,
            "train_inspector",
        ),
        write_training(run, "aligner", {"loss": 1.183, "perplexity": 3.264}, history, "train_aligner"),
    ]
    stages.append(align_stage(run, *aligned_rows(random_, rows), "aligned", inputs=("inspector", "aligner")))
    evaluation = write_stage(
        run,
        "evaluation",
        {"win_rates": pa.table({"label": ["aligned"]})},
        kind="evaluate",
        inputs=("aligned", "inspector"),
        rows_in=rows,
        seconds=8.0,
    )
    (run / evaluation["directory"] / "metrics.json").write_text(json.dumps(METRICS))
    (run / evaluation["directory"] / "controls.json").write_text(json.dumps(CONTROLS))
    return write_about(run, [*stages, evaluation])


def distribution(mean: float) -> dict[str, Any]:
    quantiles = {"0.05": 0.2 * mean, "0.25": 0.6 * mean, "0.5": mean, "0.75": 1.3 * mean, "0.95": 1.6 * mean}
    return {"rows": 300, "mean": mean, "sd": 0.4 * mean, "quantiles": quantiles}


def level(mean: float) -> dict[str, Any]:
    shares = {"share_above": mean, "share_above_interval": [mean - 0.04, mean + 0.04]}
    return {"rows": 300, "mean": mean, "mean_interval": [mean - 0.03, mean + 0.03], **shares}


FIGURES = {
    "judges": [
        {
            "judge": "ethical",
            "kind": "inspector",
            "n": 300,
            "win_rate": 0.853,
            "ci95": [0.81, 0.893],
            "wins_over_decided": 0.879,
            "wins": 256,
            "losses": 35,
            "ties": 9,
        },
        {
            "judge": "pair-ranker",
            "kind": "pair-ranker",
            "n": 300,
            "win_rate": 0.687,
            "ci95": [0.633, 0.737],
            "wins_over_decided": 0.687,
            "wins": 206,
            "losses": 94,
            "ties": 0,
        },
    ],
    "score_shift": {
        "ethical": {
            "before": distribution(0.412),
            "after": distribution(0.561),
            "shift": distribution(0.149),
            "mean_shift_interval": [0.121, 0.177],
        }
    },
    "score_level": {"ethical": {"before": level(0.412), "after": level(0.561)}},
    "text_change": {
        "words_before": distribution(15.1),
        "words_after": distribution(19.4),
        "edit_distance": distribution(0.61),
        "unchanged": 0.4,
    },
}
METRICS = {
    "labels": {"aligned": FIGURES},
    "over_seeds": {},
    "two_way": [
        {
            "judge": "ethical",
            "file": "hhh_harmless",
            "items": 58,
            "accuracy": 0.741,
            "accuracy_interval": [0.621, 0.845],
        }
    ],
    "shared_rows": 300,
    "lacking": {"aligned": 0},
}
CONTROLS = {
    "inspectors": [
        {"control": "judge inspector", "auc": 0.961},
        {"control": "bag of words", "auc": 0.742},
        {"control": "length only", "auc": 0.531},
        {"control": "question blanked", "auc": 0.688},
        {"control": "shuffled labels", "auc": 0.497},
    ],
    "aligners": [
        {"control": "aligner", "win_rate": 0.853, "stance_and_topic": 0.81},
        {"control": "copy", "win_rate": 0.0, "stance_and_topic": 0.31},
        {"control": "canned answer", "win_rate": 0.71, "stance_and_topic": 0.02},
        {"control": "refusal", "win_rate": 0.44, "stance_and_topic": 0.0},
        {"control": "another row's correction", "win_rate": 0.69, "stance_and_topic": 0.06},
    ],
}
