"""Results of a batch of requests, as OpenAI's batch API and vLLM's `run_batch` write them.

A result names its request by `custom_id` and holds the answer; the question stands in the request.
"""

import sqlite3
from collections.abc import Iterable
from functools import lru_cache
from threading import Lock
from typing import Any

from transforms.corpora.conversations import Unusable, read_content, write_context
from transforms.corpora.records import read_lines

# Of two requests that differ under one id, neither can be told to be the one that was answered.
ADD = """
    INSERT INTO requests VALUES (?, ?, ?) ON CONFLICT DO UPDATE
    SET question = NULL, error = 'several_requests_with_this_custom_id'
    WHERE question IS NOT excluded.question
"""


def read_answer(result: dict[str, Any]) -> str | None:
    """Return the content of the first choice.

    Raises Unusable where the request failed or has no answer.
    """
    response = result.get("response")
    if result.get("error") or not isinstance(response, dict) or response.get("status_code", 200) != 200:
        raise Unusable("request_failed")
    try:
        content = response["body"]["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise Unusable("response_without_content") from error
    return read_content(content)


class Requests:
    """The questions of requests by `custom_id`, for all threads of a process.

    SQLite keeps a few MB of them in memory and the rest in a temporary file that nobody else sees.
    """

    def __init__(self, requests: Iterable[dict[str, Any]]):
        self._lock = Lock()
        self._database = sqlite3.connect("", check_same_thread=False)
        self._database.execute("CREATE TABLE requests (custom_id TEXT PRIMARY KEY, question TEXT, error TEXT)")
        with self._database:
            self._database.executemany(ADD, map(_request_row, requests))

    def question(self, custom_id: Any) -> str:
        """Return the question of a request.

        Raises Unusable where no request that can be read has this id.
        """
        with self._lock:
            query = "SELECT question, error FROM requests WHERE custom_id = ?"
            row = self._database.execute(query, (str(custom_id),)).fetchone()
        if row is None:
            raise Unusable("no_request_with_this_custom_id")
        question, error = row
        if error:
            raise Unusable(error)
        return question


def _request_row(request: dict[str, Any]) -> tuple[str, str | None, str | None]:
    body = request.get("body")
    try:
        question, error = write_context(body.get("messages") if isinstance(body, dict) else None), None
    except Unusable as reason:
        question, error = None, f"request_with_{reason}"
    return str(request.get("custom_id")), question, error


@lru_cache(maxsize=1)
def _requests(marked_files: tuple[tuple[str, str], ...]) -> Requests:
    return Requests(line.values for path, _ in marked_files for line in read_lines(path) if line.error is None)


_opening = Lock()


def open_requests(marked_files: tuple[tuple[str, str], ...]) -> Requests:
    """Return the requests in files, each with its mark (transforms.tables.storage.mark); read once per process."""
    with _opening:
        return _requests(marked_files)
