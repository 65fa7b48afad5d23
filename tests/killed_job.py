"""The program that tests/test_kill.py kills: questions and triples with the tiny model.

    python -m tests.killed_job OUTPUT LOG

Every request that vLLM is sent, and every answer, is written to LOG at once, so that what was sent twice is known.
"""

import os
import sys

from pipelines.commands.run import Config, run
from transforms.engines.engine import Request
from transforms.engines.vllm_engine import VllmEngine
from transforms.generation import generate, response_cache
from transforms.tables.identity import content_id

FLUSH_ROWS = 24
WINDOW_ROWS = 48
RECIPE = {
    "name": "killed",
    "seed": 3,
    "models": {"teacher": {"model": "demo/teacher", "args": {"dtype": "float32"}}},
    "steps": {
        "questions": {
            "stage": "questions",
            "model": "teacher",
            "pack": "demo/pack.yaml",
            "count": 160,
            "topic_rounds": 1,
            "question_rounds": 2,
            "examples": 3,
            "hints": 6,
        },
        "triples": {
            "stage": "triples",
            "questions": "questions",
            "model": "teacher",
            "pack": "demo/pack.yaml",
            "sampling": {"max_tokens": 160, "temperature": 1.0, "stop": ["\nInput:"]},
        },
    },
}


def main(output: str, log_path: str) -> None:
    log = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    submit = VllmEngine.submit

    def logged(engine: VllmEngine, request: Request):
        key = content_id(request.prompt, str(request.seed), repr(request.sampling))
        os.write(log, f"sent {key}\n".encode())
        future = submit(engine, request)
        future.add_done_callback(lambda _: os.write(log, f"done {key}\n".encode()))
        return future

    VllmEngine.submit = logged
    response_cache.FLUSH_ROWS = FLUSH_ROWS
    generate.WINDOW_ROWS, generate.WINDOW_REQUESTS = WINDOW_ROWS, 0  # not as many as the engine could take at once
    run(Config(recipe="killed", output=output), recipe=RECIPE)


if __name__ == "__main__":
    main(*sys.argv[1:])
