"""The process that holds vLLM: `python -m transforms.engines.vllm_host LIFELINE`.

JSON lines over its pipes. In: the configuration, then `{"sampling": k, "value": {...}}` and requests
`[number, prompt, k, seed, adapter]`, at last `null`. Out: `{"ready": {...}}` or `{"failed": ..., "usage": bool}`, then
completions `[number, text, reasoning, finish_reason, prompt_tokens, completion_tokens, error]`,
`{"refused": number, "why": ...}`, and `{"tokens": n}` once a second as long as n grows.

It never outlives its parent: LIFELINE is the read end of a pipe whose other end only the parent holds.
(PR_SET_PDEATHSIG would not do: it follows the parent's thread, and Beam's worker threads end before the process.)
"""

import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import astuple
from typing import Any, BinaryIO

from transforms.engines.vllm_shim import BadSampling, Vllm, is_users_fault

ADDED_PER_STEP = 256
TOKENS_EVERY_SECONDS = 1.0


def main() -> None:
    end_with_parent(int(sys.argv[1]))
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever vLLM prints goes to the log
    config = json.loads(sys.stdin.buffer.readline() or "null")
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=read, args=(sys.stdin.buffer, inbox), daemon=True).start()
    writer = threading.Thread(target=write, args=(replies, outbox))
    writer.start()
    code = 0
    try:
        serve(config, inbox, outbox.put)
    except Exception as error:
        traceback.print_exc()
        code = 1
        outbox.put({"failed": f"{type(error).__name__}: {error}", "usage": is_users_fault(error)})
    outbox.put(None)
    writer.join()
    sys.stderr.flush()
    os._exit(code)  # vLLM's own threads may never end


def end_with_parent(lifeline: int) -> None:
    """Leave a small process behind that kills the whole process group once the parent is gone.

    It must be another process: this one may be deep in a computation, or the first to be killed.
    """
    if os.fork() == 0:
        os.closerange(0, lifeline)
        os.closerange(lifeline + 1, 1024)
        while os.read(lifeline, 1):
            pass
        os.killpg(0, signal.SIGKILL)
    os.close(lifeline)


def read(lines: BinaryIO, inbox: "queue.SimpleQueue[Any]") -> None:
    for line in lines:
        inbox.put(json.loads(line))


def write(replies: BinaryIO, outbox: "queue.SimpleQueue[Any]") -> None:
    """Write what is in the outbox.

    It is a thread of its own, because a parent that is slow to read must not keep vLLM waiting.
    """
    while (reply := outbox.get()) is not None:
        replies.write(json.dumps(reply).encode() + b"\n")
        if outbox.empty():
            replies.flush()
    replies.flush()


def serve(config: dict[str, Any], inbox: "queue.SimpleQueue[Any]", reply: Callable[[Any], None]) -> None:
    vllm = Vllm(**config)
    reply({"ready": {"concurrency": vllm.concurrency}})
    samplings: dict[int, dict[str, Any]] = {}
    next_report, tokens = 0.0, 0
    while True:
        for _ in range(ADDED_PER_STEP):
            try:
                message = inbox.get(block=not vllm.busy)
            except queue.Empty:
                break
            if message is None:
                vllm.shutdown()
                return
            if isinstance(message, dict):
                samplings[message["sampling"]] = message["value"]
                continue
            number, prompt, sampling, seed, adapter = message
            try:
                failed = vllm.add(str(number), prompt, samplings[sampling], seed, adapter)
            except BadSampling as error:
                reply({"refused": number, "why": str(error)})
                continue
            if failed:
                reply([number, *astuple(failed)])
        for number, completion in vllm.step():
            tokens += completion.completion_tokens
            reply([int(number), *astuple(completion)])
        if time.monotonic() >= next_report:
            next_report = time.monotonic() + TOKENS_EVERY_SECONDS
            reply({"tokens": tokens + vllm.tokens})


if __name__ == "__main__":
    main()
