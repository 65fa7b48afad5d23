"""Scoring AlpacaEval's responses with MiniLM (a head of random weights): as alignbeam does, and in bare loops.

    python -m benchmarks.align DATA --part inspect --write

(pipeline) the stage kind `score`, Parquet in and out; (bare) the same encoding and the same batches, sorted by
length within 1,024 rows, in a loop of transformers alone; (file order) 64 rows at a time as they come, padded to the
longest; (bfloat16) alignbeam's inspector under bfloat16 autocast, without the pipeline. Loading is left out.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.align.responses import read_responses, write_inspector
from benchmarks.processes import Result, middle, rates, run_alone, take_turns
from benchmarks.record import record
from transforms.tables.chunks import CHUNK_ROWS

if TYPE_CHECKING:
    from transforms.engines.inspector import Inspector

BATCH_ROWS = 64
SAMPLE_ROWS = 256
BARS = {"bare": 0.95, "file order": 2.0}


def score_in_pipeline(inspector: "Inspector", corpus: pa.Table, path: str) -> np.ndarray:
    from pipelines import score
    from pipelines.runtime.runs import Record
    from pipelines.runtime.step import Place, PlannedStep
    from pipelines.runtime.steps import alone, do_steps

    with tempfile.TemporaryDirectory(prefix="alignbeam-inspect-") as output:
        config = score.Config(responses=path, inspectors={"score": str(inspector.folder)})
        planned = alone(PlannedStep("score", score.KIND, config))
        stage = do_steps([planned], Record(output), Place(output))["score"]
        scores = stage.table("scores").to_arrow(["scores"])["scores"]
    return scores.combine_chunks().field("score").to_numpy()


def score_bare(inspector: "Inspector", corpus: pa.Table, path: str) -> np.ndarray:
    from transforms.engines.encoder import batch_tokens, token_batches
    from transforms.engines.inspector import encode_pairs

    tokenizer, parts = inspector.tokenizer, []
    for questions, responses in slices(corpus, CHUNK_ROWS):
        encoded = encode_pairs(tokenizer, questions, responses, inspector.max_tokens)
        scores = np.empty(len(questions))
        for batch in token_batches(encoded["input_ids"], batch_tokens(inspector.device)):
            rows = {name: [values[row] for row in batch] for name, values in encoded.items()}
            scores[batch] = probabilities(inspector, tokenizer.pad(rows, return_tensors="pt"))
        parts.append(scores)
    return np.concatenate(parts)


def score_in_file_order(inspector: "Inspector", corpus: pa.Table, path: str) -> np.ndarray:
    cut: dict[str, Any] = {"truncation": "longest_first", "max_length": inspector.max_tokens}
    return np.concatenate(
        [
            probabilities(inspector, inspector.tokenizer(*texts, padding=True, return_tensors="pt", **cut))
            for texts in slices(corpus, BATCH_ROWS)
        ]
    )


def score_in_bf16(inspector: "Inspector", corpus: pa.Table, path: str) -> np.ndarray:
    return np.concatenate([inspector.score(*texts) for texts in slices(corpus, CHUNK_ROWS)])


def slices(corpus: pa.Table, rows: int) -> Iterator[tuple[list[str], list[str]]]:
    for start in range(0, len(corpus), rows):
        part = corpus.slice(start, rows)
        yield part["question"].to_pylist(), part["response"].to_pylist()


def probabilities(inspector: "Inspector", inputs: Any) -> np.ndarray:
    import torch

    with torch.inference_mode():
        logits_B2 = inspector.model(**inputs.to(inspector.device)).logits
    return logits_B2.double().softmax(-1)[:, 1].cpu().numpy()


SCORE = {
    "pipeline": score_in_pipeline,
    "bare": score_bare,
    "file order": score_in_file_order,
    "bfloat16": score_in_bf16,
}


def run_one(settings: Result) -> Result:
    """Score the corpus in one way; the scores go to a file."""
    from transforms.engines.inspector import Inspector, open_inspector

    folder, way = settings["inspector"], settings["way"]
    inspector = Inspector(folder, bf16=True) if way == "bfloat16" else open_inspector(folder)
    assert isinstance(inspector, Inspector)
    corpus = pq.read_table(settings["corpus"])
    started = time.monotonic()
    scores = SCORE[way](inspector, corpus, settings["corpus"])
    seconds = time.monotonic() - started
    np.save(settings["scores"], scores)
    return {"seconds": seconds}


def compare(flags: argparse.Namespace) -> None:
    responses = read_responses(flags.data, flags.rows)
    with tempfile.TemporaryDirectory(prefix="alignbeam-inspect-") as scratch:
        corpus, inspector = Path(scratch, "corpus.parquet"), Path(scratch, "inspector")
        pq.write_table(responses.append_column("id", responses["row"].cast(pa.string())), corpus)
        write_inspector(inspector, 0, responses.slice(0, SAMPLE_ROWS))
        files = {way: Path(scratch, f"{number}.npy") for number, way in enumerate(SCORE)}
        settings = {"corpus": str(corpus), "inspector": str(inspector)}
        measured = take_turns(
            {
                way: partial(
                    run_alone, "benchmarks.align", "--part", "inspect", way=way, scores=str(files[way]), **settings
                )
                for way in SCORE
            },
            flags.runs,
        )
        scores = {way: np.load(file) for way, file in files.items()}
    table = []
    for way, results in measured.items():
        ratio = middle(results, "seconds") / middle(measured["pipeline"], "seconds")
        bar = f" (bar {BARS[way]}: {'met' if ratio >= BARS[way] else 'MISSED'})" if way in BARS else ""
        apart = np.abs(scores[way] - scores["bare"])
        table.append(
            [way, rates(results, len(responses)), f"{ratio:.2f}{bar}", f"{apart.max():.1e}", f"{apart.mean():.1e}"]
        )
    headings = ["", "rows/s (lowest–highest)", "pipeline / this", "largest difference from bare", "mean"]
    note = f"{__doc__}\n{len(responses):,} responses of four systems, medians of {flags.runs} runs."
    record("Align, inspection", note, headings, table, write=flags.write)
