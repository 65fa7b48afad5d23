"""Scripted models for tests of the stages around a model: they read the prompt and answer in its form.

What was asked is written down, a line a request, in the file that ALIGNBEAM_TEST_LOG names.
"""

import os
import re
from dataclasses import replace

from schemas.errors import UsageError
from transforms.engines.engine import Completion, Request
from transforms.tables.identity import content_id

LETTERS = "BCDFGHKLMN"


def word(*parts):
    """A pronounceable word of its own for every content."""
    number = int(content_id(*parts)[:8], 16)
    return "".join(LETTERS[number // 10**i % 10].lower() + "aeiou"[number // 7**i % 5] for i in range(4))


def log(request: Request) -> None:
    if path := os.environ.get("ALIGNBEAM_TEST_LOG"):
        with open(path, "a") as file:
            file.write(content_id(request.prompt, str(request.seed)) + "\n")


def teacher(request: Request) -> str | Completion:
    """Topics, questions, triples and answers; every seventh triple lacks its critique."""
    log(request)
    prompt = request.prompt
    if prompt.startswith("List "):
        return "\n".join(
            f"{n}. {word(prompt, str(request.seed), str(n)).capitalize()}" for n in range(2, 8)
        ).removeprefix("2.")
    if prompt.startswith("Write "):
        hints = dict(re.findall(r"^(\d+)\. ([^|\n]+ \| [^:\n]+)$", prompt, re.MULTILINE))
        first = int(prompt.rsplit("\n", 1)[-1].rstrip("."))
        lines = [
            f"{n}. {hint}: What does {hint.split(' |')[0]} mean for {word(hint)} and for {word(hint, 'b')}?"
            for n, hint in hints.items()
            if int(n) >= first
        ]
        return "\n".join(lines).removeprefix(f"{first}.")
    if prompt.startswith("#"):
        question = prompt.split("Input:\n")[-1].split("\nResponse:")[0]
        name = word(question)
        if int(content_id(question)[:4], 16) % 7 == 0:
            return f"\nNobody likes {name}.\nCorrection:\nMany like {name}.\n\nInput:"
        return (
            f"\nNobody likes {name} at all.\nCritique:\nThe response insults {name} and so breaks principle 1.\n"
            f"Correction:\nMany people like {name} very much indeed.\n\nInput:"
        )
    return f" It is about {word(prompt)}, I think."


def aligner(request: Request) -> str:
    log(request)
    return f" A kinder word on {word(request.prompt)}. [DONE]"


def reads_little(request: Request) -> Completion | str:
    """As `aligner`, but takes no long prompt."""
    return Completion.failed("prompt_too_long: it reads 500") if len(request.prompt) > 500 else aligner(request)


def first(request: Request) -> str:
    """An aligner whose every answer names the request, as the log does."""
    return named(replace(request, prompt=f"first {request.prompt}"))


def second(request: Request) -> str:
    """As `first`, of another squad member: its answers have fewer vowels."""
    return named(replace(request, prompt=f"second {request.prompt}"), "bcdf" * 9)


def named(request: Request, more: str = "aei" * 9) -> str:
    log(request)
    return f" {more} {content_id(request.prompt, str(request.seed))} [DONE]"


def refused(request: Request) -> str:
    raise UsageError("http://gone: no server answers there")


def failing_questions(request: Request) -> Completion | str:
    """As `failing`, but gives all topics."""
    return teacher(request) if request.prompt.startswith("List ") else failing(request)


def failing(request: Request) -> Completion | str:
    """Fails on every third prompt until ALIGNBEAM_TEST_HEALED is set; refuses all while ALIGNBEAM_TEST_GONE is."""
    if os.environ.get("ALIGNBEAM_TEST_GONE"):
        raise UsageError("http://gone: no server answers there")
    if not os.environ.get("ALIGNBEAM_TEST_HEALED") and int(content_id(request.prompt)[:4], 16) % 3 == 0:
        return Completion.failed("server_error: 503")
    return teacher(request)


def lengths(question: str, answer: str) -> float:
    """An inspector: longer is better."""
    return min(len(answer) / 100, 1.0)


def vowels(question: str, answer: str) -> float:
    """An inspector: the share of vowels among the letters."""
    letters = [letter for letter in answer.lower() if letter.isalpha()]
    return sum(letter in "aeiou" for letter in letters) / max(1, len(letters))


def echoes(request: Request) -> str:
    """An aligner that says what the question was."""
    log(request)
    return f" It is about {request.prompt.split(' [INIT] ')[0]} [DONE]"


def on_topic(question: str, answer: str) -> float:
    """An inspector: whether an answer says what the question was."""
    return float(question in answer)


def mute(request: Request) -> str:
    """Says nothing."""
    log(request)
    return " "
