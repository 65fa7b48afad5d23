"""Published corrections replayed through a squad: what the guard lets through, with inspectors of real preferences.

    python -m benchmarks.replay DATA --base DIR --write

An aligner's own corrections stand in for its weights: Aligner-2B's of GPT-4 Turbo's answers to AlpacaEval
(`alpaca_eval/outputs/aligner-2b_gpt-4-turbo-2024-04-09.json.gz` in DATA). The squad's one member is a scripted engine
that gives back what was published for the row it is asked about. All rows are asked (`--every-row`), with a guard that
wants any gain, with one that wants 0.05, and with none. MiniLM-L6 (`--base`) is fine-tuned on preferences of three
sources, with as many seeds, and once more for each seed with shuffled labels:

- harmless: people's choices between two answers (HH-RLHF harmless);
- baseline: GPT-4's choices between an answer of GPT-4 (1106) and that of Claude 2.1, Gemma 2B or Vicuna 7B, from
  AlpacaEval's annotations; GPT-4's own is nearly always the longer and the chosen one;
- systems: two of these three systems' answers; the better is the one that the same judge puts further ahead of, or less
  far behind, the same GPT-4 answer, where that is clear.

No inspector is trained on, nor chosen by, a question that is replayed: `curate` parts AlpacaEval's questions with their
near-duplicates, the replayed ones are in the test split of baseline and of systems, and all are held out of harmless.
A correction that differs beyond the tokens that an inspector reads (`--max-tokens`) gains nothing with it.
"""

import argparse
import csv
import gzip
import itertools
import json
import math
import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import yaml

from benchmarks.real_data import command, results, shuffle_labels
from benchmarks.record import record, table
from schemas.errors import UsageError
from transforms.engines.engine import Completion, Request
from transforms.engines.inspector import Inspector
from transforms.evaluation.classification import auc
from transforms.tables.table import read_table
from transforms.training_data.aligner_format import aligner_completion, aligner_prompt

ORIGINAL, ALIGNED = "gpt-4-turbo-2024-04-09", "aligner-2b_gpt-4-turbo-2024-04-09"
SYSTEMS = ("claude-2.1", "gemma-2b-it", "vicuna-7b")
CLEAR = 1.0  # of two systems' log-odds against the baseline: a smaller difference is no preference
SHARES = {"harmless": [0.7, 0.1, 0.2], "baseline": [0.5, 0.1, 0.4], "systems": [0.5, 0.1, 0.4]}
TRAINING = ["--batch-size", "16", "--learning-rate", "5e-5", "--warmup-steps", "20", "--bf16"]
LABELS = ("true", "shuffled")
GUARDS: dict[str, dict[str, Any]] = {
    "any gain": {"guard_margin": 0.0},
    "gain of 0.05": {"guard_margin": 0.05},
    "none": {"guard": False},
}
REASONS = ("scored_lower", "gained_too_little")
INSPECTOR_HEADINGS = (
    "inspector",
    "pairs trained on",
    "test pairs",
    "test AUC of the length alone",
    "test AUC",
    "right where the shorter was chosen",
    "corrections that score higher",
    "mean gain",
    "correlation with gain in words",
)
GUARD_HEADINGS = (
    "inspector",
    "guard",
    "kept",
    *(f"refused: {reason}" for reason in REASONS),
    "unchanged",
    "mean gain of the kept",
    "words of the kept",
    "words of the refused",
    "words after",
)
LEADERBOARD = "weighted_alpaca_eval_gpt4_turbo_leaderboard.csv"
ROWS_FILE = "ALIGNBEAM_REPLAY"  # environment variable that tells the engine where the replayed rows lie

Row = dict[str, str]
Annotations = Sequence[Sequence[dict[str, Any]]]  # by system, its rows


def published(request: Request) -> str | Completion:
    """The scripted engine: the correction published for the question and the response of the prompt."""
    found = completions(os.environ[ROWS_FILE]).get(request.prompt)
    return found or Completion.failed("not_published: there is no correction for this prompt")


@cache
def completions(path: str) -> dict[str, str]:
    """What the aligner would write, by the prompt it would read; UsageError where two rows give one prompt."""
    rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
    found = {aligner_prompt(row["question"], row["response"]): aligner_completion(row["published"]) for row in rows}
    if len(found) < len(rows):
        raise UsageError(f"{path}: {len(rows)} rows give {len(found)} prompts; no two may be the same")
    return found


def read_json(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") as file:
        return json.load(file)


def write_lines(path: Path, rows: Iterable[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def pair(question: str, rejected: str, chosen: str) -> Row:
    return {"question": question, "response": rejected, "correction": chosen}


def baseline_pairs(annotations: Annotations) -> list[Row]:
    """The baseline's answer (output 1) and each system's (output 2); above 1.5 the judge prefers output 2."""
    pairs = []
    for row in itertools.chain(*annotations):
        outputs = row["output_1"], row["output_2"]
        rejected, chosen = outputs if row["preference"] > 1.5 else outputs[::-1]
        pairs.append(pair(row["instruction"], rejected, chosen))
    return pairs


def systems_pairs(annotations: Annotations) -> list[Row]:
    """Two systems' answers to a question, ordered by how the judge prefers each to the same baseline."""
    pairs = []
    for rows in zip(*annotations, strict=True):
        if len({row["instruction"] for row in rows}) > 1:
            raise UsageError("the annotations of the systems have their questions in different orders")
        for two in itertools.combinations(rows, 2):
            worse, better = sorted(two, key=log_odds)
            if log_odds(better) - log_odds(worse) > CLEAR:
                pairs.append(pair(better["instruction"], worse["output_2"], better["output_2"]))
    return pairs


def log_odds(row: dict[str, Any]) -> float:
    """By which the judge prefers output 2; its preference is 1 plus the weight that it gives to output 2."""
    weight = min(max(row["preference"] - 1, 1e-9), 1 - 1e-9)
    return math.log(weight / (1 - weight))


def prepare(data: Path, work: Path) -> dict[str, Path]:
    """The inspector's shards of each source, curated."""
    annotations = [read_json(data / "alpaca_eval/annotations" / f"{system}.annotations.json.gz") for system in SYSTEMS]
    questions = ({"question": row["instruction"]} for row in annotations[0])
    pairs = {name: work / f"{name}.jsonl" for name in ("questions", "baseline", "systems")}
    write_lines(pairs["questions"], questions)
    write_lines(pairs["baseline"], baseline_pairs(annotations))
    write_lines(pairs["systems"], systems_pairs(annotations))
    pairs["harmless"] = data / "hh_rlhf" / "harmless_base_1600.jsonl.gz"
    for source, shares in SHARES.items():
        flags = ["--kind", "triples", "--set", "shares=[1, 0, 0]", "--set", f"inspector_shares={shares}"]
        if source == "harmless":
            flags += ["--heldout", str(pairs["questions"])]
        command("curate", pairs[source], "-o", work / source, *flags)
    return {source: results(work / source, "curate") / "inspector" for source in SHARES}


def test_pairs(shards: Path) -> list[Row]:
    """The pairs of the test split: a triple gives two rows after one another, the rejected answer first."""
    rows = pq.read_table(shards / "test").to_pylist()
    return [
        pair(rejected["question"], rejected["answer"], chosen["answer"])
        for rejected, chosen in zip(rows[::2], rows[1::2], strict=True)
    ]


def words(text: str) -> int:
    return len(text.split())


def length_auc(pairs: Sequence[Row]) -> float:
    """The AUC of an inspector that counts words and does no more."""
    answers = [(row[name], label) for row in pairs for label, name in enumerate(("response", "correction"))]
    return auc([label for _, label in answers], [words(answer) for answer, _ in answers])


def shorter_chosen(pairs: Iterable[Row]) -> list[Row]:
    return [row for row in pairs if words(row["correction"]) < words(row["response"])]


def share_right(inspector: Inspector, pairs: Sequence[Row]) -> float:
    """The share of pairs whose chosen answer the inspector scores higher."""
    questions = [row["question"] for row in pairs]
    rejected, chosen = (inspector.score(questions, [row[name] for row in pairs]) for name in ("response", "correction"))
    return float((chosen > rejected).mean())


def write_squad(run: Path, inspector: str, guard: str) -> Path:
    """The squad file of one member, whose aligner gives back the published corrections."""
    run.mkdir(parents=True, exist_ok=True)
    engine = {"engine": "scripted", "args": {"function": "benchmarks.replay:published"}}
    member = {"criterion": "preferred", "inspector": inspector, "aligner": ALIGNED, "engine": engine}
    path = run / "squad.yaml"
    path.write_text(yaml.safe_dump({"members": [member], **GUARDS[guard]}))
    return path


def replay(rows: Path, inspector: Path, guard: str, run: Path) -> pl.DataFrame:
    """Align the rows with such a squad."""
    os.environ[ROWS_FILE] = str(rows.resolve())
    command("align", rows, "--squad", write_squad(run, str(inspector.resolve()), guard), "--every-row", "-o", run)
    return read_replay(str(results(run, "align")))


def read_replay(directory: str) -> pl.DataFrame:
    """A row for each replayed one: what was decided and why, words before and proposed, and what the score would gain.

    A text that stays the same gains nothing: its score may move in its last bits with the batch that it lies in.
    """
    steps = read_table(directory, "trajectories").to_arrow().to_pylist()
    rows = []
    for start, proposed in zip(steps[::2], steps[1::2], strict=True):  # one member, so steps 0 and 1
        if proposed["decision"] == "failed":
            raise SystemExit(f"{directory}: row {proposed['row']} failed; see its rejects")
        ((_, before),), ((_, after),) = start["candidate_scores"], proposed["candidate_scores"]
        rows.append(
            {
                "decision": proposed["decision"],
                "reason": proposed["reason"],
                "before": words(start["text"]),
                "proposed": words(proposed["text"]),
                "gain": 0.0 if proposed["decision"] == "unchanged" else after - before,
            }
        )
    return pl.DataFrame(rows, schema_overrides={"reason": pl.String})


@dataclass(frozen=True)
class Measured:
    """One inspector: its AUC on its test rows, its share of right pairs where the shorter answer was chosen, and what
    it did to the replayed rows under each guard."""

    area: float
    shorter_right: float
    replays: dict[str, pl.DataFrame]


def measure(model: Path, shards: Path, rows: Path, training: Sequence[str]) -> Measured:
    command("train", "inspector", "--data", shards, "--output", model, *TRAINING, *training)
    return Measured(
        area=json.loads((model / "metrics.json").read_text())["test"]["auc"],
        shorter_right=share_right(Inspector(model), shorter_chosen(test_pairs(shards))),
        replays={guard: replay(rows, model, guard, Path(f"{model}-guard-{n}")) for n, guard in enumerate(GUARDS)},
    )


def spread(values: Iterable[Any], digits: int = 3) -> str:
    """Mean ± standard deviation over seeds, of those that have a value."""
    found = [float(value) for value in values if value is not None]
    if not found:
        return "–"
    deviation = f" ± {statistics.stdev(found):.{digits}f}" if len(found) > 1 else ""
    return f"{statistics.mean(found):.{digits}f}{deviation}"


def length_correlation(frame: pl.DataFrame) -> float:
    """Spearman's, of what the score gains with what the text gains in words, over the rows that change."""
    changed = frame.filter(pl.col("decision") != "unchanged")
    return changed.select(pl.corr("gain", pl.col("proposed") - pl.col("before"), method="spearman")).item()


def inspector_cells(shards: Path, measured: Sequence[Measured]) -> list[str]:
    """How an inspector tells its own test pairs apart, and what it says of the corrections, kept or not."""
    pairs = test_pairs(shards)
    frames = [one.replays["none"] for one in measured]
    return [
        f"{pq.read_table(shards / 'train').num_rows // 2:,}",
        f"{len(pairs):,}",
        f"{length_auc(pairs):.3f}",
        spread(one.area for one in measured),
        f"{spread(one.shorter_right for one in measured)} of {len(shorter_chosen(pairs))}",
        spread((frame["gain"] > 0).mean() for frame in frames),
        spread(frame["gain"].mean() for frame in frames),
        spread(map(length_correlation, frames)),
    ]


def guard_cells(frames: Sequence[pl.DataFrame]) -> list[str]:
    """What was kept, what refused and why, and how long both are."""
    kept, refused, unchanged = (
        [frame.filter(pl.col("decision") == decision) for frame in frames]
        for decision in ("rewritten", "refused", "unchanged")
    )
    after = pl.when(pl.col("decision") == "rewritten").then("proposed").otherwise("before").mean()
    return [
        spread(map(len, kept), 0),
        *(spread(((frame["reason"] == why).sum() for frame in refused), 0) for why in REASONS),
        spread(map(len, unchanged), 0),
        spread(frame["gain"].mean() for frame in kept),
        *(
            " → ".join(spread((frame[name].mean() for frame in part), 0) for name in ("before", "proposed"))
            for part in (kept, refused)
        ),
        spread((frame.select(after).item() for frame in frames), 0),
    ]


def leaderboard(data: Path) -> str:
    """What the published leaderboard says of the answers before and after."""
    with open(data / "alpaca_eval/leaderboards" / LEADERBOARD, newline="") as file:
        rows = {row[""]: row for row in csv.DictReader(file)}
    shown = [
        f"{float(rows[name]['win_rate']):.1f} % ({float(rows[name]['length_controlled_winrate']):.1f} % with length "
        f"controlled, {int(rows[name]['avg_length']):,} characters)"
        for name in (ORIGINAL, ALIGNED)
    ]
    return f"AlpacaEval's leaderboard has the originals at a win rate of {shown[0]}, the corrections at {shown[1]}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--base", required=True, help="folder of MiniLM-L6")
    parser.add_argument("--work", type=Path, default=Path("runs/replay"))
    parser.add_argument("--sources", nargs="+", default=list(SHARES), choices=SHARES, help="default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", default="2")
    parser.add_argument("--max-tokens", default="256", help="of question and answer; what is beyond is not inspected")
    parser.add_argument("--rows", type=int, help="replay only so many")
    parser.add_argument("--write", action="store_true", help="write the tables to docs/benchmarks.md")
    flags = parser.parse_args()
    shards = prepare(flags.data, flags.work)
    tested = [{row["question"] for row in test_pairs(shards[source])} for source in ("baseline", "systems")]
    replayed = [
        {"question": row["instruction"], "response": row["original_output"], "published": row["output"]}
        for row in read_json(flags.data / "alpaca_eval/outputs" / f"{ALIGNED}.json.gz")
        if all(row["instruction"] in questions for questions in tested)
    ][: flags.rows]
    rows = flags.work / "replayed.jsonl"
    write_lines(rows, replayed)
    inspectors, guards = [], []
    for source, labels in itertools.product(flags.sources, LABELS):
        measured = []
        for seed in range(1, flags.seeds + 1):
            data = shards[source]
            if labels == "shuffled":
                data = flags.work / f"{source}-labels-{seed}"
                shuffle_labels(shards[source], data, seed)
            training = ["--base", flags.base, "--seed", str(seed), "--epochs", flags.epochs]
            training += ["--max-tokens", flags.max_tokens]
            measured.append(measure(flags.work / f"{source}-{labels}-{seed}", data, rows, training))
        name = f"{source}, {labels} labels"
        inspectors.append([name, *inspector_cells(shards[source], measured)])
        guards += [[name, guard, *guard_cells([one.replays[guard] for one in measured])] for guard in GUARDS]
    before, proposed = (statistics.mean(words(row[name]) for row in replayed) for name in ("response", "published"))
    seeds = "one seed" if flags.seeds == 1 else f"mean ± standard deviation over {flags.seeds} seeds"
    note = (
        f"{len(replayed)} rows replayed, {before:.0f} words before and {proposed:.0f} proposed; {seeds}, "
        f"{flags.epochs} epochs; inspectors read {flags.max_tokens} tokens. "
        f"{leaderboard(flags.data)} Its judge is GPT-4, as is that of baseline and systems. The first table says how "
        "each inspector tells its own test pairs apart, and how it scores the corrections; the second, what became of "
        "these."
    )
    after = table(GUARD_HEADINGS, guards)
    if flags.write:
        record("Replayed corrections", f"{__doc__}\n{note}", INSPECTOR_HEADINGS, inspectors, after=after)
    else:
        print(note, table(INSPECTOR_HEADINGS, inspectors), after, sep="\n\n")


if __name__ == "__main__":
    main()
