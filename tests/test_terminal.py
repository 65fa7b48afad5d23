"""What others wrote reaches the terminal as text: one console, and a canary for every way in.

The canary is a text with an escape sequence, a title, a bell, a C1 control, a bidi override, a hidden space and rich's
markup, of which none may arrive; that a row of words does is seen by the markup, which stands there as it was written.
"""

import ast
import csv
import io
import json
import os
import random
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
import yaml
from example_run import align_stage, aligned_rows, write_about
from rich.table import Table
from rich.text import Text

import alignbeam
from pipelines.commands import doctor, show
from pipelines.runtime import watch
from schemas import console
from schemas.command_line import DONE, FAILED, WRONG_USE, exit_code
from schemas.errors import StageError, UsageError
from training import fit
from transforms.tables import progress
from transforms.tables.write import write_tables

ROOT = Path(__file__).resolve().parent.parent
CANARY = "\x1b[2J\x1b]0;taken\x07\x9b31m\u202e\u200b[/red][bold]fine[/bold]"
NAME = CANARY.replace("/", "")  # what a file may be called
SEEN = "\\x1b[2J\\x1b]0;taken\\x07\\x9b31m\\u202e\\u200b"
HIDDEN = "\x1b\x07\x9b\u202e\u200b"


@pytest.fixture
def said(capsys):
    """Run a command in process; what it wrote to both streams, in which no hidden character stands."""

    def run(*arguments, code=DONE, canary=SEEN, **_):
        try:
            got = alignbeam.main([str(argument) for argument in arguments])
        except SystemExit as end:
            got = end.code
        out, err = capsys.readouterr()
        text = out + err
        assert got == code, text
        assert not set(text) & set(HIDDEN)
        assert canary in text.replace("\n", "")
        return text

    return run


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\nin two lines", "plain\ttext\nin two lines"),
        ("\x00\x07\x08\x0b\x0c\r\x1b\x1f", r"\x00\x07\x08\x0b\x0c\x0d\x1b\x1f"),
        ("\x7f\x80\x85\x9b\x9f\xa0", "\\x7f\\x80\\x85\\x9b\\x9f\xa0"),
        ("\u202a\u202b\u202c\u202d\u202e", r"\u202a\u202b\u202c\u202d\u202e"),
        ("\u2066\u2067\u2068\u2069\u200e\u200f\u061c", r"\u2066\u2067\u2068\u2069\u200e\u200f\u061c"),
        ("a\u200bb\u2060\ufeff\u00ad\u2028\u2029", r"a\u200bb\u2060\ufeff\xad\u2028\u2029"),
        (os.fsdecode(b"name\x9b.csv"), r"name\udc9b.csv"),
        ("\U000e0041\U000e0100", r"\U000e0041\U000e0100"),
        ("a\u200db\u200c", r"a\u200db\u200c"),  # a joiner between letters that do not join hides
        ("می\u200cروم, क्\u200dष, 👩\u200d🔬, ❤\ufe0f", "می\u200cروم, क्\u200dष, 👩\u200d🔬, ❤\ufe0f"),
        ("naïve 漢字 αβγ — “quoted” [bold]", "naïve 漢字 αβγ — “quoted” [bold]"),
    ],
)
def test_hidden_characters_are_shown_and_all_others_stay(text, shown):
    assert console.printable(text) == shown
    assert console.printable(shown) == shown


@pytest.mark.parametrize("streams", ["results", "messages"])
def test_strings_texts_tables_and_titles_are_shown(streams, capsys):
    terminal = getattr(console, streams)
    table = Table(CANARY, title=CANARY, caption=CANARY)
    table.add_row(CANARY)
    terminal.print(table)
    terminal.print(CANARY, Text(CANARY, "bold"), Path(NAME), [CANARY], {CANARY: 1}, style="red")
    terminal.rule(CANARY)
    text = "".join(capsys.readouterr())
    assert not set(text) & set(HIDDEN)
    assert text.count(SEEN) >= 5
    assert text.count("[/red][bold]fine[/bold]") >= 5


def test_a_table_keeps_its_columns_whatever_stands_in_a_cell(capsys):
    table = Table("a", "b", box=None, pad_edge=False)
    table.add_row("\x1b[31m", "x")
    table.add_row("y", "z")
    console.results.print(table)
    assert capsys.readouterr().out.splitlines() == ["a         b", "\\x1b[31m  x", "y         z"]


def test_a_screen_gets_our_styles_and_no_escape_of_others(monkeypatch):
    screen = type("Screen", (io.StringIO,), {"isatty": lambda self: True})()
    terminal = console.PlainConsole(file=screen, highlight=False, color_system="standard", width=200)
    terminal.print(Text("error:", "red"), f"\x1b[32m{NAME}")
    assert screen.getvalue() == f"\x1b[31merror:\x1b[0m \\x1b[32m{SEEN}[red][bold]fine[bold]\n"


def test_a_terminal_that_is_not_utf8_gets_escapes():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    terminal = console.PlainConsole(file=stream, highlight=False)
    table = Table("naïve", "b")
    table.add_row("漢 → x", Text(terminal.visible("é")))
    terminal.print(table, Text("é"))
    terminal.print("… —", soft_wrap=True)
    stream.flush()
    lines = stream.buffer.getvalue().decode("ascii").splitlines()
    assert "| \\u6f22 \\u2192 x | \\xe9 |" in lines
    assert lines[-2:] == ["\\xe9", "\\u2026 \\u2014"]


def run_python(*arguments, encoding="ascii", cwd=None):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding, "LC_ALL": "C", "LANG": "C"}
    return subprocess.run([sys.executable, *arguments], capture_output=True, env=environment, cwd=cwd, timeout=120)


OTHERS = """
import alignbeam, logging, sys, threading, warnings
from schemas.command_line import exit_code
from rich.progress import Progress

def command():
    logging.getLogger("some.library").warning("logged %s", sys.argv[1])
    warnings.warn("warned " + sys.argv[1])
    thread = threading.Thread(target=lambda: 1 / 0, name=sys.argv[1])
    thread.start(); thread.join()
    assert alignbeam.main(["--help"]) == 0 and alignbeam.main([sys.argv[1]]) == 2
    raise RuntimeError("raised " + sys.argv[1])

exit_code(command)
"""


def test_logs_warnings_and_traces_go_through_the_console_in_any_encoding():
    for encoding in ("ascii", "utf-8"):
        done = run_python("-c", OTHERS, CANARY, encoding=encoding)
        out, err = done.stdout.decode(encoding), done.stderr.decode(encoding)
        assert done.returncode == 1, err
        assert not set(out + err) & set(HIDDEN)
        for word in ("logged", "warned", "raised"):
            assert f"{word} {SEEN}[/red][bold]fine" in err, word
        assert "ZeroDivisionError" in err
        assert "alignbeam: from a criterion" in out


@pytest.mark.parametrize(
    ("error", "code", "word"), [(UsageError(CANARY), WRONG_USE, "error:"), (StageError(CANARY), FAILED, "failed:")]
)
def test_an_error_is_shown_as_it_reads(capsys, error, code, word):
    def command():
        raise error

    assert exit_code(command) == code
    assert capsys.readouterr().err == f"{word} {SEEN}[/red][bold]fine[/bold]\n"


def test_commands_and_flags_that_there_are_not(said):
    said(CANARY, code=WRONG_USE)
    for command in ("align", "check", "status", "doctor", "show", "run", "train"):
        said(command, "--odd" + CANARY, code=WRONG_USE, canary="")
    said("status", "run", "--odd" + CANARY, code=WRONG_USE)
    said("doctor", "--odd" + CANARY, code=WRONG_USE)
    said("show", "run", "--set", f"{CANARY}=1", code=WRONG_USE)
    said("show", "run", "--set", f"limit={CANARY}", code=WRONG_USE, canary="limit")
    said("show", CANARY, code=WRONG_USE)
    align = ("align", "a.jsonl", "-o", "out", "--aligner", "a", "--inspector", "i", "--")
    refused = said(*align, "--direct_num_workers=" + CANARY, code=WRONG_USE)
    assert refused.startswith("error: Beam refuses --direct_num_workers=")
    assert ": argument --direct_num_workers: invalid int value: '" in refused
    said(*align, "--odd" + CANARY, code=WRONG_USE)


def test_file_names_headers_and_what_is_wrong_with_rows(said, tmp_path):
    corpus = tmp_path / f"{NAME}.csv"
    with corpus.open("w", newline="") as file:
        csv.writer(file).writerows([["question", "response", CANARY], ["q", "r", "x"], ["q", "", "x"]])
    said("check", tmp_path, code=3)
    said("check", corpus, code=3)
    said("check", tmp_path / f"no{NAME}.csv", code=WRONG_USE)
    with corpus.open("w", newline="") as file:
        csv.writer(file).writerows([[CANARY, "b"], ["q", "r"]])
    assert said("check", tmp_path, code=WRONG_USE).count("\\x1b[2J") >= 2
    corpus.write_bytes(b"\xff\xfe\x00")
    said("import", tmp_path, "-o", tmp_path.with_name("out"), code=WRONG_USE)


def test_columns_of_a_table(said, tmp_path):
    table = pa.table({"id": ["1"], CANARY: ["x"]})
    write_tables(str(tmp_path), {"responses": table}, {"stage": CANARY}, 10)
    assert said("check", tmp_path).count(SEEN) == 2


def test_keys_and_values_of_recipes_packs_and_squads(said, tmp_path):
    file = tmp_path / "file.yaml"
    for content, told in (
        ({"steps": {}, CANARY: 1}, SEEN),
        ({"steps": {}, "models": {"teacher": CANARY}}, "teacher"),
        ({"steps": {CANARY: {"stage": "questions"}}}, SEEN),
        ({"steps": {"a": {"stage": CANARY}}}, SEEN),
        ({"steps": {"a": {"stage": "questions", CANARY: 1}}}, SEEN),
        ({"steps": {"a": {"stage": "questions", "model": CANARY, "pack": CANARY}}}, SEEN),
        ({"criterion": "ethical", "name": CANARY}, ""),
        ({"members": [{CANARY: 1}]}, SEEN),
        ({"members": [{"criterion": CANARY, "inspector": CANARY, "aligner": CANARY}]}, SEEN),
        ({"name": CANARY, CANARY: 1}, SEEN),
    ):
        file.write_text(yaml.safe_dump(content))
        said("check", file, code=WRONG_USE, canary=told)
    said("run", file, "-o", tmp_path / "run", "--set", f"{CANARY}=1", code=WRONG_USE)
    steps = {"a": {"stage": "questions", "model": "teacher", "pack": "ethical"}}
    file.write_text(yaml.safe_dump({"name": CANARY, "models": {"teacher": {}}, "steps": steps}))
    flags = ["--model", CANARY, "-o", tmp_path / "run"]
    said("run", file, *flags, "--print-config", canary="[/red][bold]fine")
    said("run", file, *flags, code=WRONG_USE)
    file.write_text(f"'{CANARY}': [")  # YAML itself refuses control characters, and says which
    said("check", file, code=WRONG_USE, canary="")


def test_a_run_of_others(said, tmp_path):
    stage = {"stage": CANARY, "status": CANARY, "seconds": 1.0, "directory": "a"}
    about = {"name": CANARY, "stages": [stage | {"because": [CANARY], "inputs": [CANARY]}]}
    (tmp_path / "run.json").write_text(json.dumps(about))
    counts = {"in": 1, "kept": 0, "drops": {CANARY: 1}, "rejects": {}}
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "manifest.json").write_text(json.dumps({"counts": counts, "tables": {}, "stage": CANARY}))
    assert said("status", tmp_path, canary="\\x1b[2J").count("\\x1b[2J") >= 3
    said("report", tmp_path / NAME, code=WRONG_USE)


def test_a_model_folder_and_an_output(said, tmp_path):
    folder = tmp_path / NAME
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": CANARY}))
    (tmp_path / "a.jsonl").write_text('{"question": "q", "response": "r"}')
    flags = ["--aligner", folder, "--inspector", folder, "-o", tmp_path / "run"]
    said("align", tmp_path / "a.jsonl", *flags, code=WRONG_USE)
    said("evaluate", tmp_path, "--inspector", f"{CANARY}={folder}", "-o", tmp_path / "run", code=WRONG_USE)
    said("train", "inspector", "--data", folder, "--output", tmp_path / "m", code=WRONG_USE)


class Hostile(BaseHTTPRequestHandler):
    """A server whose every answer is an error, with the canary in it."""

    def do_GET(self):
        data = json.dumps({"error": {"message": CANARY}}).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_GET

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("status", [401, 404])
def test_a_servers_error(said, tmp_path, status, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    http = ThreadingHTTPServer(("127.0.0.1", 0), Hostile)
    http.status = status
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    try:
        engine = {"engine": "server", "base_url": f"http://127.0.0.1:{http.server_address[1]}/v1", "model": "m"}
        step = {"stage": "questions", "model": "teacher", "pack": "ethical"}
        settings = {"name": "test", "models": {"teacher": engine}, "steps": {"questions": step}}
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(settings))
        code = WRONG_USE if status == 401 else FAILED
        said("run", recipe, "-o", tmp_path / "run", "--only", "questions", code=code)
    finally:
        http.shutdown()
        http.server_close()


def test_what_doctor_says_and_its_json(said, tmp_path, monkeypatch, capsys):
    from pipelines.commands.installation import Check

    monkeypatch.setattr(doctor, "examine", lambda *_: iter([Check(CANARY, "fail", CANARY, CANARY)]))
    assert said("doctor", code=FAILED).count("\\x1b[2J") == 4
    assert doctor.main(["--json"]) == FAILED
    assert json.loads(capsys.readouterr().out)["checks"][0]["found"] == CANARY


@pytest.mark.parametrize("watching", [watch._bars, watch._lines])
def test_names_of_steps_in_bars_and_lines(monkeypatch, watching):
    screen = type("Screen", (io.StringIO,), {"isatty": lambda self: True})()
    monkeypatch.setattr(console.messages, "_file", screen)
    monkeypatch.setattr(console.messages, "is_interactive", True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(progress, "snapshot", lambda: {CANARY: progress.Progress(done=3, seconds=1.0)})
    waits = iter(range(1000))

    def stop_once_shown(_):
        time.sleep(0.01)  # bars are drawn by a thread
        turn = next(waits)
        return turn > 0 and (turn == 999 or "taken" in screen.getvalue())

    watching(9, SimpleNamespace(wait=stop_once_shown))
    shown = screen.getvalue()
    assert f"{SEEN}[/red][bold]fine[/bold]" in shown
    assert not set(shown) & set("\x07\x9b\u202e\u200b")
    assert "\x1b[2J" not in shown


def test_what_a_trainer_prints(capsys):
    fit.say_lines({"base": CANARY, CANARY: "1"})
    assert capsys.readouterr().out == f"{'base':<{len(CANARY)}}  {SEEN}[/red][bold]fine[/bold]\n" + (
        f"{SEEN}[/red][bold]fine[/bold]  1\n"
    )


@pytest.mark.parametrize("arguments", [[], ["--diff"]])
def test_texts_of_a_corpus_on_a_terminal_of_little_characters(tmp_path, monkeypatch, arguments):
    rows, steps = aligned_rows(random.Random(0), 1)
    rows[0] |= {"decision": "rewritten", "question": CANARY, "response": f"a naïve\x85{CANARY} b", "aligned": "a b"}
    run = write_about(tmp_path, [align_stage(tmp_path, rows, steps)])
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(console.results, "_file", stream)
    assert show.main([str(run), *arguments]) == DONE
    stream.flush()
    shown = stream.buffer.getvalue().decode("ascii")
    assert not set(shown) & set(HIDDEN)
    shown = "".join(shown.split())
    assert f"na\\xefve\\x85{SEEN}" in shown
    assert "\\u2192" in shown  # the arrow between scores


# Where the terminal, or a parser that prints to it, is reached otherwise, and why.
ELSEWHERE = {
    ("alignbeam.py", "refuse_intruders"): "the console itself may be hidden by another project's",
    ("alignbeam.py", "main"): "prints texts of its own, in ASCII, before any module is looked for",
    ("schemas/console.py", "<module>"): "is the console",
    ("schemas/console.py", "take_over"): "sends logs there",
    ("schemas/command_line.py", "Parser"): "prints through the console",
    ("transforms/engines/vllm_host.py", "main"): "its stdout and stderr are a pipe and a file, read by the engine",
}
REACHES = {
    "print",
    "Console",
    "ArgumentParser",
    "basicConfig",
    "StreamHandler",
    "print_exc",
    "print_exception",
    "pprint",
    "get_console",
    "from_markup",
}
STREAMS = {"stdout", "stderr", "__stdout__", "__stderr__"}


def ways_to_the_terminal(source):
    """Function or class at the top of a module -> what in it writes to the terminal other than by a console's print."""
    for top in ast.parse(source).body:
        name = getattr(top, "name", "<module>")
        for node in ast.walk(top):
            if isinstance(node, ast.Call):
                called = node.func
                word = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
                of_console = isinstance(called, ast.Attribute) and getattr(called.value, "id", "") in (
                    "results",
                    "messages",
                )
                if word in REACHES and not of_console:
                    yield name, word
            if isinstance(node, ast.Attribute) and node.attr in STREAMS and getattr(node.value, "id", "") == "sys":
                yield name, f"sys.{node.attr}"


def test_ways_are_seen():
    source = "print(1)\ndef f():\n    sys.stderr.write('')\n    rich.print('')\nresults.print(1)\nc = Console()\n"
    assert list(ways_to_the_terminal(source)) == [
        ("<module>", "print"),
        ("f", "print"),
        ("f", "sys.stderr"),
        ("<module>", "Console"),
    ]


def test_nothing_reaches_the_terminal_but_through_the_console():
    files = ["alignbeam.py", *(file for name in alignbeam.PACKAGES for file in (ROOT / name).rglob("*.py"))]
    ways = {
        (str((ROOT / file).relative_to(ROOT)), name): word
        for file in files
        for name, word in ways_to_the_terminal((ROOT / file).read_text(encoding="utf-8"))
    }
    assert {way: word for way, word in ways.items() if way not in ELSEWHERE} == {}
    assert set(ELSEWHERE) <= set(ways) | {("schemas/console.py", "<module>")}
