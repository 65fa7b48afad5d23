"""Train the demo's tiny teacher from scratch, on documents that world.py writes and transforms.prompts renders.

    python -m demo.train_teacher --output demo/teacher

The model learns to continue the four prompts of the job in this world: topics, questions, triples and plain answers.
Each sequence holds as much of one prompt's continuation as fits, so that few tokens go to constant text. In triples and
answers half of the topics are invented words, which cannot be remembered, only copied from the question, and a third of
the questions are partly in invented words, which can only be read past: held-out topics and phrasings need both.
Copying is learned early, because the first steps have short sequences, and some echoes: invented words, said twice.
A shorter second phase adds revisions, answers put right without a critique: an aligner can build on those. By then both
kinds of plain answers are known, and nearly all are misaligned: the demo's upstream model needs aligning. Takes about
50 minutes on 2 cores, and uses a GPU if there is one.
"""

import argparse
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from demo import world
from schemas.criteria.pack import Pack, load_pack
from transforms.prompts import render

PACK_PATH = Path(__file__).parent / "pack.yaml"
SPECIAL_TOKENS = ["<eos>", "<pad>"]
TASK_SHARES = {
    "main": {"triples": 0.46, "answer": 0.12, "questions": 0.24, "topics": 0.08, "echo": 0.10},
    "revision": {"revision": 0.40, "answer": 0.28, "triples": 0.18, "questions": 0.10, "topics": 0.04},
}
ALIGNED_SHARES = {"main": 0.4, "revision": 0.05}  # of plain answers
PAGE_SHARE = 0.35  # of triples sequences that begin with the principles and demonstrations
DRILL_SHARE = 0.55  # of topics in triples and answers that are invented words
DISGUISED_SHARE = 0.3  # of questions in triples and answers in which invented words replace many others
MAX_PIECE_LETTERS = 5
MAX_TOKEN_CHARACTERS = 6  # no task's text has more characters to a token, so this many always fill a sequence


@dataclass(frozen=True, kw_only=True)
class Config:
    output: str
    steps: int = 2400
    step_tokens: int = 5120
    short_steps: int = 600  # the first ones, whose sequences are short
    short_tokens: int = 256
    sequence_tokens: int = 1024
    learning_rate: float = 3e-3
    revision_steps: int = 600
    revision_learning_rate: float = 1e-3
    warmup_steps: int = 50
    hidden_size: int = 224
    layers: int = 5
    heads: int = 7
    vocabulary: int = 1536
    save_every: int = 200
    seed: int = 0


def random_syllables(rng: random.Random, count: int) -> list[str]:
    return ["".join(rng.choice(part) for part in world.GRAMMAR["syllables"]) for _ in range(count)]


def invented_word(rng: random.Random, pieces: Sequence[str]) -> str:
    """One or two random pieces, such as 'blenk' or 'stroadder'."""
    return "".join(rng.choice(pieces) for _ in range(rng.choice([1, 2, 2])))


def invented_topic(rng: random.Random, pieces: Sequence[str]) -> str:
    """A topic like those of the world, in invented words: two or three of them, or a noun and a place."""
    words = [invented_word(rng, pieces) for _ in range(rng.choice([2, 2, 3]))]
    if rng.random() < 0.4:
        words = [words[0], rng.choice(world.GRAMMAR["links"]), words[1].capitalize()]
    return " ".join([words[0].capitalize(), *words[1:]])


def any_question(rng: random.Random, pieces: Sequence[str]) -> world.Question:
    """A question of the teacher's; its topic, and many words of its phrase, are often in invented words."""
    topic = invented_topic(rng, pieces) if rng.random() < DRILL_SHARE else None
    disguised = rng.random() < DISGUISED_SHARE

    def reword(frame: str) -> str:
        return world.disguise(rng, frame, "teacher", lambda: invented_word(rng, pieces)) if disguised else frame

    return world.sample_question(rng, "teacher", topic=topic, reword=reword)


def triple_text(rng: random.Random, pieces: Sequence[str]) -> str:
    """One episode, as `episode_text` writes it."""
    return episode_text(world.sample_episode(rng, any_question(rng, pieces)))


def episode_text(episode: world.Episode) -> str:
    """An episode from its 'Input:' to the blank line before the next."""
    return (
        f"Input:\n{episode.question.text}\nResponse:\n{episode.response}\n"
        f"Critique:\n{episode.critique}\nCorrection:\n{episode.correction}\n\n"
    )


def answer_text(rng: random.Random, pieces: Sequence[str], aligned_share: float) -> str:
    """A plain answer, aligned or not."""
    question = any_question(rng, pieces)
    answer = world.sample_answer(rng, question, "teacher", aligned=rng.random() < aligned_share)
    return render("answer", question=question.text) + f" {answer.text}\n\n"


def revision_text(rng: random.Random, pieces: Sequence[str]) -> str:
    """An episode without its critique."""
    return without_critique(world.sample_episode(rng, any_question(rng, pieces)))


def without_critique(episode: world.Episode) -> str:
    return f"Question: {episode.question.text}\nDraft: {episode.response}\nRevision: {episode.correction}\n\n"


def topics_text(rng: random.Random) -> str:
    question_type = rng.choice(world.question_types("teacher"))
    count = rng.randint(8, 20)
    topics = list(dict.fromkeys(world.sample_topic(rng, "teacher") for _ in range(count)))
    shown = rng.randint(1, 5)
    prompt = render("topics", count=len(topics), question_type=question_type, topics=topics[:shown])
    lines = [f"{number}. {topic}" for number, topic in enumerate(topics, 1)][shown:]
    return prompt + "\n".join(lines).removeprefix(f"{shown + 1}.") + "\n\n"


def questions_text(rng: random.Random, pack: Pack) -> str:
    questions = [world.sample_question(rng, "teacher") for _ in range(rng.randint(6, 15))]
    hints = [f"{question.topic} | {question.question_type}" for question in questions]
    shown = rng.randint(1, 5)
    examples = [question.text for question in questions[:shown]]
    prompt = render("questions", failure=pack.failure, hints=hints, examples=examples)
    asked = [f"{hint}: {question.text}" for hint, question in zip(hints, questions, strict=True)]
    lines = [f"{number}. {line}" for number, line in enumerate(asked, 1)][shown:]
    return prompt + "\n".join(lines).removeprefix(f"{shown + 1}.") + "\n\n"


def echo_text(rng: random.Random, pieces: Sequence[str]) -> str:
    """A line of invented words, and the same line again."""
    line = " ".join(invented_word(rng, pieces) for _ in range(rng.randint(4, 20)))
    return f"{line}\n{line}\n\n"


@dataclass(frozen=True)
class Phase:
    """A cosine of the learning rate over `steps`, on tasks in the shares of `name`; short sequences come first."""

    name: str
    steps: int
    learning_rate: float
    short_steps: int = 0


def phases(config: Config) -> list[Phase]:
    return [
        Phase("main", config.steps, config.learning_rate, config.short_steps),
        Phase("revision", config.revision_steps, config.revision_learning_rate),
    ]


def page_text(pack: Pack) -> str:
    """The principles and demonstrations that stand before a triple."""
    return render("triples", pack=pack, question="").removesuffix("Input:\n\nResponse:")


def sequence_texts(rng: random.Random, pack: Pack, pieces: Sequence[str], phase: Phase) -> Iterator[str]:
    """Endless pieces of text of one task; the caller stops when the sequence is full."""
    shares = TASK_SHARES[phase.name]
    task = rng.choices(list(shares), list(shares.values()))[0]
    if task == "triples" and rng.random() < PAGE_SHARE:
        yield page_text(pack)
    while True:
        if task == "triples":
            yield triple_text(rng, pieces)
        elif task == "answer":
            yield answer_text(rng, pieces, ALIGNED_SHARES[phase.name]) + ("<eos>" if rng.random() < 0.5 else "")
        elif task == "revision":
            yield revision_text(rng, pieces)
        elif task == "echo":
            yield echo_text(rng, pieces)
        else:
            yield (topics_text(rng) if task == "topics" else questions_text(rng, pack)) + "<eos>"


def train_tokenizer(config: Config, pack: Pack) -> PreTrainedTokenizerFast:
    """Byte-level BPE over what the teacher reads and writes, invented words included."""
    rng = random.Random(config.seed)
    pieces = random_syllables(rng, 1000)
    texts = [render("triples", pack=pack, question="?")]
    for _ in range(3000):
        texts += [triple_text(rng, pieces), answer_text(rng, pieces, ALIGNED_SHARES["main"])]
    for _ in range(300):
        texts += [topics_text(rng), questions_text(rng, pack)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocabulary,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<eos>",
        pad_token="<pad>",
        model_max_length=config.sequence_tokens,
        clean_up_tokenization_spaces=False,
    )


def word_pieces(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """What invented words are made of: every short piece of the vocabulary.

    A held-out topic is in pieces of the vocabulary too; this way the model has copied all of them.
    """
    texts = {tokenizer.convert_tokens_to_string([token]).strip().lower() for token in tokenizer.get_vocab()}
    return sorted(text for text in texts if text.isascii() and text.isalpha() and len(text) <= MAX_PIECE_LETTERS)


@dataclass(frozen=True)
class Source:
    """Where batches come from; `texts` gives endless pieces of text for one sequence."""

    tokenizer: PreTrainedTokenizerFast
    texts: Callable[[], Iterator[str]]

    def batch(self, rows: int, length: int) -> Tensor:
        """Token ids [rows, length]; every token is learned, the pages too (they cost little once known)."""
        ids = []
        for _ in range(rows):
            text, characters = "", length * MAX_TOKEN_CHARACTERS
            for piece in self.texts():
                text += piece
                if len(text) >= characters:
                    break
            ids.append(self.tokenizer(text, truncation=True, max_length=length).input_ids)
        return torch.tensor(ids)


@torch.inference_mode()
def heldout_copying(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, count: int = 40) -> float:
    """Share of held-out topics that the model would copy whole into an aligned answer, every token its first choice."""
    rng, copied = random.Random(0), 0
    for question in world.heldout_questions(count):
        prompt = render("answer", question=question.text)
        text = prompt + " " + world.sample_answer(rng, question, "teacher", aligned=True).text
        start = text.index(world.inline(question.topic), len(prompt))
        encoded = tokenizer(text, return_offsets_mapping=True, return_tensors="pt")
        tokens, spans = encoded.input_ids.to(model.device), encoded.offset_mapping[0].tolist()
        copies = [n for n, (a, b) in enumerate(spans) if b > start and a < start + len(question.topic)]
        choices = model(input_ids=tokens).logits[0].argmax(-1)
        copied += all(choices[n - 1] == tokens[0, n] for n in copies)
    return copied / count


def build_model(config: Config, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.hidden_size,
            intermediate_size=config.hidden_size * 5 // 2,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=config.sequence_tokens,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, output: Path, card: str) -> None:
    """A model directory that vLLM and transformers load, with a card."""
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    (output / "README.md").write_text(card)


def card_of(facts: dict[str, Any], about: str) -> str:
    return about.format(facts="\n".join(f"- {name}: {value}" for name, value in facts.items() if name != "output"))


CARD = """# Tiny teacher

A toy: a Llama of about 3 million parameters, trained from scratch by `demo/train_teacher.py` on nothing but the
synthetic world of `demo/world.py`, rendered with this project's own prompt templates. It continues the four prompts of
the demo (topics, questions, triples, plain answers) and knows nothing else. Plain answers are nearly always misaligned,
on purpose. It never saw the world's held-out topics, question types and phrasings, nor the judge's. In triples and
answers half of the topics, and many of the words of every third question, were random syllables: so it copies topics
rather than remembering them, and reads past words that it does not know. It has revised answers without a critique too,
but has not seen the aligner's text format.

## Training

{facts}
"""


def learn(model: LlamaForCausalLM, source: Source, config: Config, phase: Phase, about: str = CARD) -> dict[str, Any]:
    """Train for a phase, and save the model with a card every so often and at its end; return the card's facts."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    embeddings_and_vectors = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=phase.learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(embeddings_and_vectors, lr=phase.learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]

    def rate(step: int) -> float:
        progress = max(0.0, (step - config.warmup_steps) / (phase.steps - config.warmup_steps))
        return min(1.0, (step + 1) / config.warmup_steps) * (0.03 + 0.97 * (1 + math.cos(math.pi * progress)) / 2)

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, rate) for optimizer in optimizers]
    started, losses = time.monotonic(), []
    for step in range(1, phase.steps + 1):
        length = config.short_tokens if step <= phase.short_steps else config.sequence_tokens
        tokens_BT = source.batch(config.step_tokens // length, length).to(model.device)
        with torch.autocast(model.device.type, dtype=torch.bfloat16):
            loss = model(input_ids=tokens_BT, labels=tokens_BT).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        losses.append(loss.item())
        if step % 20 == 0:
            speed = step * config.step_tokens / (time.monotonic() - started)
            print(f"{phase.name} {step} loss {sum(losses[-20:]) / 20:.4f} {speed:.0f} tokens/s", flush=True)
        if step % config.save_every == 0 or step == phase.steps:
            copying = heldout_copying(model, source.tokenizer)
            print(f"{phase.name} {step} copies {copying:.0%} of held-out topics", flush=True)
            recent = losses[-50:]
            facts = {"phase": phase.name, "step": step, "loss": round(sum(recent) / len(recent), 4)}
            facts |= {"heldout_copying": copying, **asdict(config)}
            save(model, source.tokenizer, Path(config.output), card_of(facts, about))
    return facts


def train(config: Config) -> LlamaForCausalLM:
    torch.manual_seed(config.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pack = load_pack(str(PACK_PATH))
    tokenizer = train_tokenizer(config, pack)
    model = build_model(config, tokenizer).to(device)
    print(f"{model.num_parameters():,} parameters, {config.step_tokens:,} tokens a step, on {device}")
    for number, phase in enumerate(phases(config), 1):
        rng, pieces = random.Random(config.seed + number), word_pieces(tokenizer)
        learn(model, Source(tokenizer, partial(sequence_texts, rng, pack, pieces, phase)), config, phase)
    return model


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default=str(Path(__file__).parent / "teacher"))
    for name in ("steps", "seed", "save_every"):
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=getattr(Config, name))
    train(Config(**vars(parser.parse_args(argv))))


if __name__ == "__main__":
    main()
