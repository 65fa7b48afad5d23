"""Which key goes to which server, and that none goes elsewhere; servers here note what they are sent."""

import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipelines.commands import align
from schemas.errors import StageError, UsageError
from transforms.engines.engine import EngineConfig, Request, Sampling
from transforms.engines.keys import how_to_bind, key_for
from transforms.engines.running import close_engines, open_engine

SECRETS = {
    "OPENAI_API_KEY": "sk-openai-secret",
    "OPENAI_ADMIN_KEY": "sk-admin-secret",
    "OPENAI_ORG_ID": "org-secret",
    "OPENAI_PROJECT_ID": "project-secret",
    "OPENAI_CUSTOM_HEADERS": "Authorization: Bearer custom-secret\nX-Gateway: gateway-secret",
    "AWS_SECRET_ACCESS_KEY": "aws-secret",
    "MY_KEY": "sk-mine-secret",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("ALIGNBEAM_KEYS", raising=False)
    yield
    close_engines()


class Note(BaseHTTPRequestHandler):
    """Notes every request; answers with `server.answer(path)`: status, headers, body."""

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append((self.path, dict(self.headers), body.decode()))
        status, headers, answer = self.server.answer(self.path)
        data = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_GET

    def log_message(self, *_):
        pass


def answered(path):
    if path.endswith("/models"):
        return 200, {}, {"object": "list", "data": [{"id": "m", "object": "model"}]}
    choice = {"index": 0, "text": "fine", "finish_reason": "stop", "logprobs": None}
    return 200, {}, {"id": "1", "object": "text_completion", "model": "m", "choices": [choice]}


@pytest.fixture
def serve():
    started = []

    def start(answer=answered):
        http = ThreadingHTTPServer(("127.0.0.1", 0), Note)
        http.daemon_threads, http.seen, http.answer = True, [], answer
        threading.Thread(target=http.serve_forever, daemon=True).start()
        started.append(http)
        return http

    yield start
    close_engines()
    for http in started:
        http.shutdown()
        http.server_close()


def address(http) -> str:
    return f"127.0.0.1:{http.server_address[1]}"


def ask(http) -> str | None:
    engine = open_engine(EngineConfig(engine="server", base_url=f"http://{address(http)}/v1", model="m"))
    return engine.submit(Request("hi", Sampling(max_tokens=8), None)).result(timeout=60).text


def test_a_server_that_no_key_is_bound_to_is_sent_none(serve):
    http = serve()
    assert ask(http) == "fine"
    assert [path for path, *_ in http.seen] == ["/v1/models", "/v1/completions"]
    assert "secret" not in str(http.seen)
    assert all("Authorization" not in headers for _, headers, _ in http.seen)


def test_a_bound_server_is_sent_its_key_and_nothing_else(serve, monkeypatch):
    http = serve()
    monkeypatch.setenv("ALIGNBEAM_KEYS", f"elsewhere=OPENAI_API_KEY {address(http)}=MY_KEY")
    assert ask(http) == "fine"
    assert [headers["Authorization"] for _, headers, _ in http.seen] == ["Bearer sk-mine-secret"] * 2
    assert str(http.seen).count("secret") == 2


def test_a_file_sends_no_variable_anywhere(serve, tmp_path, capsys):
    http = serve()
    url = f"http://{address(http)}/v1"
    (tmp_path / "corpus.jsonl").write_text('{"question": "q", "response": "r"}\n')
    member = "criterion: c, inspector: 'scripted:tests.scripted_models:lengths', aligner: m"
    for more in ("", ", api_key_env: AWS_SECRET_ACCESS_KEY"):
        (tmp_path / "squad.yaml").write_text(
            f"members: [{{{member}, engine: {{engine: server, base_url: '{url}'{more}}}}}]"
        )
        flags = [str(tmp_path / "corpus.jsonl"), "--squad", str(tmp_path / "squad.yaml"), "-o", str(tmp_path / "out")]
        assert align.main(flags) == (2 if more else 0)
    assert "api_key_env: is no setting any more" in capsys.readouterr().err
    assert "/v1/completions" in str(http.seen)
    assert "secret" not in str(http.seen)


@pytest.mark.parametrize("at", ["/v1/models", "/v1/completions"])
def test_no_request_follows_to_another_address(serve, monkeypatch, at):
    thief = serve()

    def redirect(path):
        target = f"http://{address(thief)}/v1?token=abc"
        return (307, {"Location": target}, {}) if path == at else answered(path)

    http = serve(redirect)
    monkeypatch.setenv("ALIGNBEAM_KEYS", f"{address(http)}=MY_KEY")
    with pytest.raises((UsageError, StageError), match=rf"sends requests on to http://{address(thief)}/v1\?token=\*"):
        ask(http)
    assert thief.seen == []


def test_a_server_that_asks_for_a_key_is_told_how_to_get_one(serve):
    http = serve(lambda path: (401, {}, {"error": {"message": "who are you?"}}))
    with pytest.raises(UsageError, match=f"no key is bound .* ALIGNBEAM_KEYS='{address(http)}=VARIABLE'.* who are you"):
        ask(http)


def test_how_a_key_is_bound():
    assert how_to_bind("https://host/v1") == "set ALIGNBEAM_KEYS='host=VARIABLE' in the environment"
    assert how_to_bind("https://host:8443") == "set ALIGNBEAM_KEYS='host:8443=VARIABLE' in the environment"
    assert how_to_bind("http://host") == "reach it by https, and set ALIGNBEAM_KEYS='HOST=VARIABLE' in the environment"


def test_a_key_that_a_server_repeats_stands_in_no_error_and_no_log(serve, monkeypatch, caplog):
    http = serve(lambda path: (403, {}, {"error": {"message": "not with sk-mine-secret"}}))
    monkeypatch.setenv("ALIGNBEAM_KEYS", f"{address(http)}=MY_KEY")
    caplog.set_level(logging.DEBUG)
    with pytest.raises(UsageError, match=r"not with \*\*\*") as refused:
        ask(http)
    assert refused.value.__cause__ is None  # a trace would print it
    assert refused.value.__suppress_context__
    assert "sk-mine-secret" not in caplog.text


def test_a_proxy_is_not_asked_for_what_stays_on_this_machine(serve, monkeypatch):
    http, proxy = serve(), serve()
    monkeypatch.setenv("HTTP_PROXY", f"http://{address(proxy)}")
    monkeypatch.setenv("http_proxy", f"http://{address(proxy)}")
    monkeypatch.setenv("ALIGNBEAM_KEYS", f"{address(http)}=MY_KEY")
    assert ask(http) == "fine"
    assert proxy.seen == []


KEYS = "api.example.com=MY_KEY localhost:8000=MY_KEY [::1]:8000=MY_KEY"


@pytest.mark.parametrize(
    ("keys", "url", "key"),
    [
        ("", "https://api.openai.com/v1", "sk-openai-secret"),
        ("api.openai.com=MY_KEY", "https://api.openai.com/v1", "sk-mine-secret"),
        ("", "http://api.openai.com/v1", None),
        ("", "https://api.openai.com:8443/v1", None),
        ("", "https://api.openai.com.elsewhere.org/v1", None),
        (KEYS, "https://api.example.com/v1", "sk-mine-secret"),
        (KEYS, "https://API.example.com:443", "sk-mine-secret"),
        (KEYS, "https://api.example.com:444", None),
        (KEYS, "http://api.example.com", None),
        (KEYS, "https://evil.api.example.com", None),
        (KEYS, "http://localhost:8000", "sk-mine-secret"),
        (KEYS, "http://[::1]:8000/v1", "sk-mine-secret"),
        (KEYS, "http://127.0.0.1:8000", None),
    ],
)
def test_a_key_goes_to_its_address_alone(monkeypatch, keys, url, key):
    monkeypatch.setenv("ALIGNBEAM_KEYS", keys)
    assert key_for(url) == key


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("host:80=MY_KEY", "'http://host': a key is bound to it, which plain http would show"),
        ("host:80=NOT_SET", "plain http"),
        ("https://host=MY_KEY", "entry 1 is no binding"),
        ("a=MY_KEY host=sk-pasted-secret", "entry 2 is no binding"),
        ("host:80=pasted_secret host:80=MY_KEY", "binds two variables to host:80"),
    ],
)
def test_a_binding_that_cannot_be_used_is_named_without_what_it_holds(monkeypatch, keys, message):
    monkeypatch.setenv("ALIGNBEAM_KEYS", keys)
    with pytest.raises(UsageError, match=message) as refused:
        key_for("http://host")
    assert "secret" not in str(refused.value)


def test_a_variable_that_is_not_set_is_an_error(monkeypatch):
    monkeypatch.setenv("ALIGNBEAM_KEYS", "host=pasted_secret")
    with pytest.raises(UsageError, match="the variable that it binds to host:443 is not set here") as refused:
        key_for("https://host")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://me:secret@host/v1",
        "https://secret@host/v1",
        "https://host/v1?api-key=secret",
        "https://host/v1#secret",
        "https://host\\@api.openai.com/v1",
        "https://host:99999/v1",
        "https://host name/v1",
        "https://höst/v1",
        "https:///v1",
    ],
)
def test_an_address_is_plain(url):
    with pytest.raises(UsageError, match=r"engine.base_url = .*(may hold no password|must be plain)") as refused:
        EngineConfig(engine="server", base_url=url, model="m")
    assert "secret" not in str(refused.value)
