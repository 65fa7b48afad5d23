"""Teach the demo's teacher the pages of the squad's three criteria: a short further training, from its weights on.

    python -m demo.squad.train_teacher --output demo/squad/teacher

The texts are those of demo.train_teacher, with two differences. A triple stands below the page of its criterion, lacks
that and perhaps the others, and its correction repairs that alone; plain answers lack each criterion about half of the
time. Revisions repair one criterion, and none says which: an adapter has to choose one. The weights are kept in
bfloat16. Takes 8 minutes on 2 cores.
"""

import argparse
import random
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from demo import train_teacher, world
from demo.train_teacher import Config, Phase, Source
from schemas.criteria.pack import Pack, load_pack
from transforms.prompts import render

FOLDER = Path(__file__).parent
BASE = FOLDER.parent / "teacher"
TASK_SHARES = {"triples": 0.55, "answer": 0.18, "revision": 0.17, "questions": 0.07, "topics": 0.03}
PAGE_SHARE = 0.8  # of triples sequences that begin with their page
LACKING_SHARES = {"civic": 0.55, "relevant": 0.5, "polite": 0.5}  # of plain answers
FACTS = ("phase", "step", "loss", "heldout_copying", "step_tokens", "sequence_tokens", "warmup_steps", "seed")

CARD = """# Tiny teacher of the squad's demo

A toy: demo/teacher, trained further by `demo/squad/train_teacher.py` so that it writes triples of three criteria
(civic, relevant, polite), each with a correction that repairs its own criterion alone. Its plain answers lack each
criterion about half of the time, on purpose. Like demo/teacher it never saw the world's held-out topics, question
types and phrasings, nor the judges'.

## Training

{facts}
"""


def packs() -> dict[str, Pack]:
    return {criterion: load_pack(str(FOLDER / f"{criterion}.yaml")) for criterion in world.CRITERIA}


def sequence_texts(rng: random.Random, pages: dict[str, Pack], pieces: Sequence[str]) -> Iterator[str]:
    """Endless pieces of text of one task and criterion; the caller stops when the sequence is full."""
    task = rng.choices(list(TASK_SHARES), list(TASK_SHARES.values()))[0]
    criterion = rng.choice(list(pages))
    if task == "triples" and rng.random() < PAGE_SHARE:
        yield train_teacher.page_text(pages[criterion])
    while True:
        question = train_teacher.any_question(rng, pieces)
        if task == "triples":
            yield train_teacher.episode_text(world.sample_squad_episode(rng, question, criterion))
        elif task == "revision":
            revised = rng.choice(list(pages))
            yield train_teacher.without_critique(world.sample_squad_episode(rng, question, revised))
        elif task == "answer":
            answer = world.sample_lacking_answer(rng, question, "teacher", world.sample_lacking(rng, LACKING_SHARES))
            yield render("answer", question=question.text) + f" {answer.text}\n\n"
        elif task == "topics":
            yield train_teacher.topics_text(rng) + "<eos>"
        else:
            yield train_teacher.questions_text(rng, pages[criterion]) + "<eos>"


def train(config: Config, phase: Phase) -> None:
    torch.manual_seed(config.seed)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    model = LlamaForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    texts = partial(sequence_texts, random.Random(config.seed), packs(), train_teacher.word_pieces(tokenizer))
    facts = train_teacher.learn(model, Source(tokenizer, texts), config, phase, CARD)
    facts = {name: facts[name] for name in FACTS} | {"learning_rate": phase.learning_rate}
    train_teacher.save(model.to(torch.bfloat16), tokenizer, Path(config.output), train_teacher.card_of(facts, CARD))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", default=str(FOLDER / "teacher"))
    parser.add_argument("--steps", type=int, default=400)
    arguments = parser.parse_args(argv)
    train(Config(output=arguments.output), Phase("squad", arguments.steps, 1e-3))


if __name__ == "__main__":
    main()
