"""Peak memory of a generating run over 20,000 and over 200,000 rows with the scripted engine.

    python -m benchmarks.memory

Bar: the larger run stays within 1.3 times the smaller one. Each run is a process of its own, measured by the operating
system at its end.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.record import record
from pipelines import align, respond, triples
from pipelines.runtime.runs import Record
from pipelines.runtime.step import Place, PlannedStep
from pipelines.runtime.steps import alone, do_steps
from schemas.squads import AlignMember
from transforms.engines.engine import Completion, Request
from transforms.tables.identity import content_id
from transforms.tables.write import write_tables

SIZES = (20_000, 200_000)
KINDS = {"respond": respond.KIND, "triples": triples.KIND, "align": align.KIND}
ENGINE = {"engine": "scripted", "args": {"function": "benchmarks.memory:answer"}}


def answer(request: Request) -> Completion:
    """About 60 words that follow from the prompt, in the form of a triple."""
    name = content_id(request.prompt)
    words = " ".join(f"{name[index : index + 4]}" for index in range(0, 28, 2))
    return Completion(
        f"\nNo {words}.\nCritique:\nIt breaks principle 1 (safety): {words}.\nCorrection:\nYes {words}.\n\nInput:"
    )


def write_questions(directory: Path, rows: int) -> None:
    ids = [content_id("question", str(row)) for row in range(rows)]
    table = pa.table({"id": ids, "question": [f"What of number {row} and {name}?" for row, name in enumerate(ids)]})
    for column in ("question_type", "topic", "criterion", "origin"):
        table = table.append_column(column, pa.array(["none"] * rows))
    table = table.append_column("round", pa.array([0] * rows, pa.int32()))
    table = table.append_column("response", pa.array([f"An answer to {name}, as it was given." for name in ids]))
    write_tables(str(directory), {"questions": table}, {"stage": "questions", "digest": "benchmark"}, 20_000)


def write_inspector(folder: Path) -> None:
    """An inspector with random weights, as small as one can be: the model is not the point here."""
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz0123456789"]
    (folder / "vocab.txt").write_text("\n".join([*words, *(f"##{letter}" for letter in words[5:])]))
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
    config = BertConfig(vocab_size=80, max_position_embeddings=64, **shape)
    BertForSequenceClassification(config).save_pretrained(folder)


def run_stage(stage: str, questions: str, output: str) -> None:
    """The stage over the table of questions; `align` over their responses, every row rewritten."""
    if stage == "align":
        model = str(Path(output).parent / "inspector")
        write_inspector(Path(model))
        members = (AlignMember(criterion="tiny", inspector=model, aligner=model),)
        config: Any = align.Config(responses=questions, members=members, every_row=True)
    elif stage == "triples":
        config = triples.Config(questions=questions, model="scripted", pack="ethical")
    else:
        config = respond.Config(questions=questions, model="scripted")
    planned = alone(PlannedStep(stage, KINDS[stage], config), ENGINE)
    do_steps([planned], Record(output), Place(output))
    print(json.dumps({"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def measure(stage: str, rows: int) -> float:
    """Peak memory in MB of one run in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        write_questions(Path(folder) / "questions", rows)
        command = [sys.executable, "-m", "benchmarks.memory", "--stage", stage, f"{folder}/questions", f"{folder}/run"]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(printed.splitlines()[-1])["peak_mb"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("paths", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        run_stage(arguments.stage, *arguments.paths)
        return
    rows = []
    for stage in KINDS:
        peaks = [measure(stage, size) for size in SIZES]
        rows.append([stage, *(f"{peak:,.0f} MB" for peak in peaks), f"{peaks[1] / peaks[0]:.2f}"])
    record("Peak memory", __doc__, ["stage", *(f"{size:,} rows" for size in SIZES), "ratio"], rows)


if __name__ == "__main__":
    main()
