import json
import os

import pytest

from transforms.corpora.batch_results import Requests, open_requests, read_answer
from transforms.corpora.conversations import Unusable
from transforms.tables import storage


def result(content, **more):
    body = {"choices": [{"index": 0, "message": {"role": "assistant", "content": content}}]}
    return {"custom_id": "1", "response": {"status_code": 200, "body": body}, "error": None, **more}


def request(custom_id, *contents):
    return {"custom_id": custom_id, "body": {"messages": [{"role": "user", "content": text} for text in contents]}}


def test_the_answer_is_the_first_choices_content():
    assert read_answer(result("So.")) == "So."
    assert read_answer(result([{"type": "text", "text": "So."}])) == "So."
    assert read_answer(result(None)) is None


@pytest.mark.parametrize(
    ("failed", "reason"),
    [
        (result("So.", error={"code": "batch_expired"}), "request_failed"),
        (result("So.", response=None), "request_failed"),
        (result("So.", response={"status_code": 429, "body": {"choices": []}}), "request_failed"),
        (result("So.", response={"status_code": 200, "body": {"choices": []}}), "response_without_content"),
        (result("So.", response={"status_code": 200, "body": None}), "response_without_content"),
    ],
)
def test_what_has_no_answer_says_why(failed, reason):
    with pytest.raises(Unusable, match=reason):
        read_answer(failed)


def test_a_request_is_found_by_its_id():
    equal = request("equal", "Who?")
    picture = {"custom_id": "picture", "body": {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}}
    differing = [request("twice", "Why?"), request("twice", "Who?"), request("twice", "Who?")]
    requests = Requests([request("1", "Why?"), equal, equal, *differing, picture, {"custom_id": "bare"}])
    assert (requests.question("1"), requests.question("equal")) == ("Why?", "Who?")
    for custom_id, reason in (
        ("2", "no_request_with_this_custom_id"),
        (None, "no_request_with_this_custom_id"),
        ("twice", "several_requests_with_this_custom_id"),
        ("picture", "request_with_messages_with_more_than_text"),
        ("bare", "request_with_null_messages"),
    ):
        with pytest.raises(Unusable, match=f"^{reason}$"):
            requests.question(custom_id)


def test_requests_are_read_once_until_their_file_changes(tmp_path):
    path = str(tmp_path / "requests.jsonl")

    def opened(question):
        (tmp_path / "requests.jsonl").write_text(json.dumps(request("1", question)) + "\n{broken")
        os.utime(path, (1, len(question)))
        return open_requests(((path, storage.mark(path)),))

    first = opened("Why?")
    assert opened("Who?") is first  # as far as the mark tells
    assert opened("Which one?").question("1") == "Which one?"
