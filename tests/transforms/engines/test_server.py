"""The server engine, against a small HTTP server that misbehaves as it is told."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from schemas.errors import StageError, UsageError
from transforms.engines import server
from transforms.engines.engine import EngineConfig, Request, Sampling
from transforms.engines.identity import engine_digest
from transforms.engines.running import close_engines, open_engine

GREEDY = Sampling(max_tokens=8)


class Handler(BaseHTTPRequestHandler):
    """`server.script(path, body, attempt)` gives (status, headers, body) for every POST, or None to hang up."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.reply(*self.server.models)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        state = self.server
        with state.lock:
            state.seen.append((time.monotonic(), self.path, body, self.headers["Authorization"]))
            key = json.dumps(body, sort_keys=True)
            state.attempts[key] = state.attempts.get(key, 0) + 1
            state.at_once += 1
            state.most_at_once = max(state.most_at_once, state.at_once)
        answer = state.script(self.path, body, state.attempts[key])
        with state.lock:
            state.at_once -= 1
        if answer is None:
            self.close_connection = True
        else:
            self.reply(*answer)

    def reply(self, status, headers, answer):
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def text_answer(text, finish_reason="stop"):
    choice = {"index": 0, "text": text, "finish_reason": finish_reason, "logprobs": None}
    return 200, {}, {"id": "1", "object": "text_completion", "model": "m", "choices": [choice], "usage": USAGE}


def chat_answer(**message):
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
    return 200, {}, {"id": "1", "object": "chat.completion", "model": "m", "choices": [choice], "usage": USAGE}


def failure(status, message, **headers):
    return status, headers, {"error": {"message": message, "type": "x", "code": status}}


@pytest.fixture
def service(monkeypatch):
    monkeypatch.setenv("TEST_KEY", "sk-secret-value")
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    monkeypatch.setenv("ALIGNBEAM_KEYS", f"127.0.0.1:{http.server_address[1]}=TEST_KEY")
    http.daemon_threads = True
    http.models = (200, {}, {"object": "list", "data": [{"id": "m", "object": "model"}]})
    http.script = lambda path, body, attempt: text_answer(f"echo {body['prompt']}")
    http.lock, http.seen, http.attempts, http.at_once, http.most_at_once = threading.Lock(), [], {}, 0, 0
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    yield http
    close_engines()
    http.shutdown()
    http.server_close()


def config_of(service, **settings):
    url = f"http://127.0.0.1:{service.server_address[1]}/v1"
    settings = {"model": "m", "timeout_seconds": 5.0, "concurrency": 4, **settings}
    return EngineConfig(engine="server", base_url=url, **settings)


def engine_of(service, **settings):
    return open_engine(config_of(service, **settings))


def ask(engine, *prompts, sampling=GREEDY, seed=None):
    futures = [engine.submit(Request(prompt, sampling, seed)) for prompt in prompts]
    return [future.result(timeout=60) for future in futures]


def test_completion_style(service):
    sampling = Sampling(
        max_tokens=8, temperature=0.5, top_p=0.9, repetition_penalty=1.5, stop=["\n"], extra={"min_p": 0.1}
    )
    [done] = ask(engine_of(service), "hi", sampling=sampling, seed=7)
    assert (done.text, done.reasoning, done.finish_reason, done.error) == ("echo hi", None, "stop", None)
    assert (done.prompt_tokens, done.completion_tokens) == (3, 2)
    [(_, path, body, authorization)] = service.seen
    assert path == "/v1/completions"
    assert authorization == "Bearer sk-secret-value"
    assert body == {
        "model": "m",
        "prompt": "hi",
        "max_tokens": 8,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["\n"],
        "seed": 7,
        "repetition_penalty": 1.5,
        "min_p": 0.1,
    }


@pytest.mark.parametrize(
    ("message", "text", "reasoning"),
    [
        ({"content": "Yes."}, "Yes.", None),
        ({"content": "Yes.", "reasoning_content": "Hm."}, "Yes.", "Hm."),
        ({"content": "Yes.", "reasoning": "Hm."}, "Yes.", "Hm."),
        ({"content": None, "reasoning": "Hm."}, "", "Hm."),
        ({"content": "<think>Hm.</think>\nYes."}, "Yes.", "Hm."),
        ({"content": "half a \ud800"}, "half a ?", None),
    ],
)
def test_chat_style(service, message, text, reasoning):
    service.script = lambda path, body, attempt: chat_answer(**message)
    engine = engine_of(service, style="chat", chat_template_kwargs={"enable_thinking": False})
    [done] = ask(engine, "hi")
    assert (done.text, done.reasoning) == (text, reasoning)
    [(_, path, body, _)] = service.seen
    assert path == "/v1/chat/completions"
    assert body["messages"] == [{"role": "user", "content": "hi"}]
    assert body["chat_template_kwargs"] == {"enable_thinking": False}


def test_concurrency_is_bounded(service):
    def slowly(path, body, attempt):
        time.sleep(0.02)
        return text_answer(body["prompt"])

    service.script = slowly
    done = ask(engine_of(service), *[f"p{i}" for i in range(40)])
    assert [one.text for one in done] == [f"p{i}" for i in range(40)]
    assert service.most_at_once == 4


def test_retry_after_is_respected(service):
    def busy_once(path, body, attempt):
        return failure(429, "busy", **{"Retry-After": "1"}) if attempt == 1 else text_answer("done")

    service.script = busy_once
    [done] = ask(engine_of(service), "hi")
    assert done.text == "done"
    (first, *_), (second, *_) = service.seen
    assert 0.9 < second - first < 3


def test_server_errors_are_retried(service):
    def flaky(path, body, attempt):
        return failure(500 + attempt, "flaky", **{"Retry-After-Ms": "10"}) if attempt < 5 else text_answer("done")

    service.script = flaky
    [done] = ask(engine_of(service), "hi")
    assert done.text == "done"
    assert len(service.seen) == 5


def test_a_request_that_keeps_failing_is_a_failed_row(service, monkeypatch):
    monkeypatch.setattr(server, "MAX_RETRIES", 2)

    def poison(path, body, attempt):
        bad = body["prompt"] == "poison"
        return failure(503, "overloaded", **{"Retry-After-Ms": "10"}) if bad else text_answer("fine")

    service.script = poison
    good, bad, other = ask(engine_of(service), "a", "poison", "b")
    assert (good.text, other.text) == ("fine", "fine")
    assert (bad.text, bad.finish_reason, bad.error) == (None, "error", "server_error: 503 overloaded")
    assert len(service.seen) == 2 + 3


def test_a_server_that_hangs_is_a_failed_row(service, monkeypatch):
    monkeypatch.setattr(server, "MAX_RETRIES", 1)

    def hang(path, body, attempt):
        if body["prompt"] == "hang":
            time.sleep(1.5)
        return text_answer("late")

    service.script = hang
    done, other = ask(engine_of(service, timeout_seconds=0.3), "hang", "go")
    assert done.error == "server_error: no answer within 0.3 seconds"
    assert other.text == "late"


@pytest.mark.parametrize("garbage", [b"<html>busy</html>", b"{}", b'{"choices": []}', b"[1, 2", b"null"])
def test_garbage_is_a_failed_row(service, garbage):
    service.script = lambda path, body, attempt: (200, {}, garbage)
    [done] = ask(engine_of(service), "hi")
    assert done.finish_reason == "error"
    assert done.error.startswith("bad_answer: ")


def test_a_prompt_that_is_too_long_is_named(service):
    message = "This model's maximum context length is 16 tokens. However, you requested 99 tokens."
    service.script = lambda path, body, attempt: failure(400, message)
    [done] = ask(engine_of(service), "hi")
    assert done.error == f"prompt_too_long: 400 {message}"
    assert len(service.seen) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_fails_for_all_stops_the_stage_at_once(service, status):
    service.script = lambda path, body, attempt: failure(status, "no, sk-secret-value")
    with pytest.raises(StageError, match=r"\*\*\*") as stopped:
        ask(engine_of(service), "hi")
    assert "sk-secret-value" not in str(stopped.value)
    assert len(service.seen) == 1


def test_a_server_that_has_gone_stops_the_stage(service, monkeypatch):
    monkeypatch.setattr(server, "MAX_RETRIES", 0)
    monkeypatch.setattr(server, "GONE_REQUESTS", 3)
    engine = engine_of(service)
    service.script = lambda path, body, attempt: None
    futures = [engine.submit(Request(f"p{i}", GREEDY)) for i in range(20)]
    outcomes = [future.exception(timeout=60) or future.result().error for future in futures]
    assert all(one.startswith("server_error: Connection error") for one in outcomes[:7])
    assert isinstance(outcomes[-1], StageError)


def test_an_exhausted_quota_stops_the_stage(service, monkeypatch):
    monkeypatch.setattr(server, "MAX_RETRIES", 0)
    monkeypatch.setattr(server, "GONE_REQUESTS", 3)
    engine = engine_of(service)
    service.script = lambda path, body, attempt: failure(429, "insufficient quota")
    futures = [engine.submit(Request(f"p{i}", GREEDY)) for i in range(20)]
    outcomes = [future.exception(timeout=60) or future.result().error for future in futures]
    assert outcomes[0].startswith("server_error: 429 insufficient quota")
    assert isinstance(outcomes[-1], StageError)


def test_nothing_listens(service):
    url = "http://127.0.0.1:9/v1"
    with pytest.raises(UsageError, match="http://127.0.0.1:9/v1': no server answers there"):
        open_engine(EngineConfig(engine="server", base_url=url, model="m"))


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (
            failure(401, "who are you, sk-secret-value?"),
            r"refuses the key that is bound to it: 401 who are you, \*\*\*",
        ),
        ((200, {}, {"object": "list", "data": [{"id": "other", "object": "model"}]}), "'m': the server has other"),
    ],
)
def test_what_is_wrong_is_known_at_once(service, models, message):
    service.models = models
    with pytest.raises(UsageError, match=message):
        engine_of(service)


def test_a_key_that_an_answer_repeats_is_left_out(service):
    def repeat(path, body, attempt):
        said = "sk-secret-value!"
        return chat_answer(content=said, reasoning=said) if "chat" in path else text_answer("x", said)

    service.script = repeat
    [done] = ask(engine_of(service, style="chat"), "hi")
    assert (done.text, done.reasoning) == ("***!", "***!")
    [failed] = ask(engine_of(service, style="completion"), "hi")
    assert failed.error == "finish_reason: ***!"


def test_a_key_in_a_servers_list_of_models_is_left_out(service):
    service.models = (200, {}, {"object": "list", "data": [{"id": "sk-secret-value", "object": "model"}]})
    with pytest.raises(UsageError, match=r"the server has \*\*\*$"):
        engine_of(service)


def test_a_server_without_a_list_of_models_is_fine(service):
    service.models = failure(404, "no such page")
    assert ask(engine_of(service), "hi")[0].text == "echo hi"


def test_a_shorter_answer_is_asked_for_where_the_context_has_no_room(service):
    def reply(path, body, attempt):
        if len(body["prompt"]) + body["max_tokens"] > 1000:
            return failure(400, f"max_tokens={body['max_tokens']} cannot be greater than max_model_len=1000")
        return text_answer("fits", "length" if body["prompt"].startswith("cut") else "stop")

    service.script = reply
    long = Sampling(max_tokens=3000)
    fits, cut, too_long = ask(engine_of(service), "a" * 300, "cut" * 100, "a" * 900, sampling=long)
    assert (fits.text, fits.error) == ("fits", None)
    assert cut.error == "prompt_too_long: cut off at 375 tokens, because the server had no room"
    assert too_long.error.startswith("prompt_too_long: 400 max_tokens=256 ")
    assert {body["max_tokens"] for _, _, body, _ in service.seen} == {3000, 1500, 750, 375, 256}


def test_the_digest_names_server_and_model(service):
    first, second = (engine_digest(config_of(service, style=style)) for style in ("completion", "chat"))
    assert first != second
    assert len(first) == 32
