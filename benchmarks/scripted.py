"""Scripted models that cost next to nothing, for measuring what stands around a model.

A response begins with the mark of its score, and a question with the mark of what its rewrite is worth.
"""

from transforms.engines.engine import Completion, Request

GOOD, BAD = "+", "-"
SCORES = {GOOD: 0.9, BAD: 0.3, "*": 0.8, "/": 0.2}  # of responses, then of better and worse rewrites
REWRITE_CHARACTERS = 350


def inspect(question: str, answer: str) -> float:
    return SCORES[answer[0]]


def rewrite(request: Request) -> Completion:
    """Most of the response again, under the mark that the question asks for."""
    mark = "*" if request.prompt.startswith(GOOD) else "/"
    return Completion(f" {mark} {request.prompt[-REWRITE_CHARACTERS:]}", prompt_tokens=90, completion_tokens=60)
