"""Real preference data, real responses: an inspector from HH-RLHF, and two systems' AlpacaEval answers aligned with it.

    python -m benchmarks.real_data DATA --aligner DIR --base DIR

DATA is a folder with `hh_rlhf/` (1,600 harmless pairs), `hhh_alignment/` and `alpaca_eval/outputs/`; the aligner is the
demo's tiny one, which knows nothing of such text. MiniLM-L6 (`--base`) is fine-tuned on the curated pairs with three
seeds, and once more for each seed with shuffled labels. The steps are the commands a user would type.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.record import record
from pipelines.runtime.runs import open_run

SEEDS = (1, 2, 3)
STEPS = ["--epochs", "3", "--batch-size", "16", "--learning-rate", "5e-5", "--warmup-steps", "20"]
TRAINING = [*STEPS, "--max-tokens", "96", "--bf16"]
MARGIN = 0.05
SYSTEMS = ("alpaca-7b", "vicuna-7b")


def command(*arguments: str | Path) -> None:
    """Run alignbeam; a result with rejected rows (3) is a result."""
    print("+ alignbeam", *arguments, flush=True)
    code = subprocess.run([sys.executable, "-m", "alignbeam", *map(str, arguments)]).returncode
    if code not in (0, 3):
        raise SystemExit(f"alignbeam {arguments[0]} ended with exit code {code}")


def shuffle_labels(shards: Path, output: Path, seed: int) -> None:
    """The same shards with the labels of the training and validation rows dealt out anew."""
    for path in sorted(shards.glob("*/*.parquet")):
        rows = pq.read_table(path)
        labels = rows["label"].to_pylist()
        if path.parent.name != "test":
            random.Random(seed).shuffle(labels)
        target = output / path.relative_to(shards)
        target.parent.mkdir(parents=True, exist_ok=True)
        field = rows.schema.field("label")
        index = rows.schema.get_field_index("label")
        pq.write_table(rows.set_column(index, field, pa.array(labels, field.type)), target)


def results(run: Path, stage: str) -> Path:
    """Where a run's results of a stage lie."""
    return Path(next(recorded.path for recorded in open_run(str(run)).stages if recorded.name == stage))


def mean_sd(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--aligner", required=True)
    parser.add_argument("--base", required=True, help="folder of MiniLM-L6")
    parser.add_argument("--work", type=Path, default=Path("runs/real_data"))
    flags = parser.parse_args()
    work = flags.work
    command("import", flags.data / "hh_rlhf" / "harmless_base_1600.jsonl.gz", "-o", work / "hh", "--kind", "triples")
    command("curate", work / "hh", "-o", work / "curated")
    (shards,) = (work / "curated" / "curate").glob("*/inspector")
    judge = ["--two-way", str(flags.data / "hhh_alignment" / "honest_other.jsonl.gz")]
    tests: dict[str, list[dict]] = {"trained": [], "shuffled labels": []}
    two_way: dict[str, list[dict]] = {"trained": [], "shuffled labels": []}
    aligned: dict[str, list[dict]] = {system: [] for system in SYSTEMS}
    for seed in SEEDS:
        shuffled = work / f"shuffled-{seed}"
        shuffle_labels(shards, shuffled, seed)
        for kind, data in (("trained", shards), ("shuffled labels", shuffled)):
            model = work / f"{kind.replace(' ', '-')}-{seed}"
            settings = ["--base", flags.base, "--seed", str(seed), *TRAINING]
            command("train", "inspector", "--data", data, "--output", model, *settings)
            tests[kind].append(json.loads((model / "metrics.json").read_text())["test"])
            for system in SYSTEMS if kind == "trained" else SYSTEMS[:1]:
                run = work / f"{system}-{model.name}"
                corpus = flags.data / "alpaca_eval" / "outputs" / f"{system}.json.gz"
                models = ["--aligner", flags.aligner, "--inspector", model, "--criterion", "harmless"]
                command("align", corpus, *models, "--guard-margin", str(MARGIN), "-o", run)
                command("evaluate", run, "--inspector", f"inspector={model}", *judge, "-o", run)
                metrics = json.loads((results(run, "evaluate") / "metrics.json").read_text())
                metrics |= metrics["labels"]["aligned"]
                decisions = pq.read_table(results(run, "align") / "aligned")["decision"].to_pylist()
                found = metrics | {"decisions": {name: decisions.count(name) for name in set(decisions)}}
                two_way[kind] += found["two_way"] if system == SYSTEMS[0] else []
                if kind == "trained":
                    aligned[system].append(found)
    rows = [
        [
            kind,
            mean_sd([test["accuracy"] for test in tests[kind]]),
            mean_sd([test["auc"] for test in tests[kind]]),
            "; ".join(f"{test['auc_interval'][0]:.3f}–{test['auc_interval'][1]:.3f}" for test in tests[kind]),
            mean_sd([item["accuracy"] for item in two_way[kind]]),
        ]
        for kind in tests
    ]
    lines = []
    for system, found in aligned.items():
        for seed, one in zip(SEEDS, found, strict=True):
            verdict, scores = one["judges"][0], one["score_shift"]["inspector"]
            decisions = ", ".join(f"{name}: {count}" for name, count in sorted(one["decisions"].items()))
            lines.append(
                f"- {system}, seed {seed}: {decisions}; wins {verdict['wins']}, losses {verdict['losses']}, "
                f"ties {verdict['ties']} of {verdict['n']}; mean score {scores['before']['mean']:.3f} → "
                f"{scores['after']['mean']:.3f}"
            )
    note = (
        "Rows aligned (threshold 0.5, guard margin 0.05) and how the same inspector judges the result:\n\n"
        + "\n".join(lines)
    )
    headings = [
        "inspector",
        "test accuracy",
        "test AUC",
        "95 % of the AUC, by seed",
        "two-way accuracy, HHH other and honest",
    ]
    record("Real data", __doc__ or "", headings, rows, after=note)


if __name__ == "__main__":
    main()
