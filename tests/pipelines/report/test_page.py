import json
import os
import random
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pytest
from example_run import (
    CORPUS,
    align_stage,
    aligned_rows,
    entry,
    write_about,
    write_align_run,
    write_full_run,
    write_stage,
)

from pipelines.commands import align
from pipelines.report.corpus import SHOWN_CHARACTERS
from pipelines.report.page import main
from schemas.command_line import DONE, WRONG_USE
from schemas.tables import QUESTIONS, TRAJECTORIES, aligned, with_drop_reason
from transforms.tables.table import read_table

HOSTILE = (
    "</script><script>document.title='taken'</script>",
    "<img src=http://evil.invalid/pixel onerror=\"document.title='taken'\">",
    "\"><svg onload=document.title='taken'>",
    "<a href=\"javascript:document.title='taken'\">press</a>",
    "{{ 7 * 7 }}{% raw %}${document.title='taken'}",
    "--><!--<script>document.title='taken'//",
    "line\u2028paragraph\u2029end\\u003c%{z}",
    "بسم الله \u202eright to left\u202c 他是好人 👩🏽‍🌾",
)


class Page(HTMLParser):
    """What a page is made of: elements with their attributes, and text outside scripts and styles."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.texts, self._silent = [], [], False
        self.feed(html)
        self.text = "\n".join(self.texts)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._silent = tag in ("script", "style")

    def handle_endtag(self, tag):
        self._silent = False

    def handle_data(self, data):
        if not self._silent:
            self.texts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def written(run):
    assert main([str(run)]) == DONE
    return (run / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    run = write_full_run(tmp_path_factory.mktemp("full"))
    written(run)
    return run


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A run in which everything that a model or a file could have written attacks the page."""
    run = tmp_path_factory.mktemp("hostile")
    rows, steps = aligned_rows(random.Random(0), 40)
    for number, row in enumerate(rows):
        attack = HOSTILE[number % len(HOSTILE)]
        row |= dict.fromkeys(("id", "question", "question_type", "topic"), f"{attack} {number}")
        row |= {
            "response": f"a {attack} b",
            "aligned": f"a {attack} c",
            "decision": attack if number == 9 else row["decision"],
        }
    for step in steps:
        attack = HOSTILE[step["row"] % len(HOSTILE)]
        step |= {"id": rows[step["row"]]["id"], "member": attack, "text": attack, "reason": attack}
        step["scores"] = step["candidate_scores"] = [(attack, 0.5)]
        step["decision"] = "refused" if step["row"] % 3 else attack
    questions = [{"id": text, "question": text, "question_type": text, "topic": text} for text in HOSTILE]
    drops = [{**question, "drop_reason": question["id"]} for question in questions]
    tables = {
        "questions": pa.Table.from_pylist(questions, QUESTIONS),
        "drops": pa.Table.from_pylist(drops, with_drop_reason(QUESTIONS)),
    }
    evaluate = write_stage(run, "evaluate", {"judgements": pa.table({"id": ["a"]})}, rows_in=1)
    judge = {
        "judge": HOSTILE[0],
        "n": 1,
        "wins": 1,
        "losses": 0,
        "ties": 0,
        "win_rate": 1.0,
        "ci95": None,
        "wins_over_decided": 1.0,
    }
    by = {HOSTILE[3]: {HOSTILE[4]: {"judges": [judge]}}}
    figures = {"judges": [judge], "by": by, HOSTILE[1]: {HOSTILE[2]: HOSTILE[3]}}
    metrics = {"labels": {HOSTILE[2]: figures, HOSTILE[0]: figures}, HOSTILE[5]: {HOSTILE[2]: HOSTILE[3]}}
    (run / evaluate["directory"] / "metrics.json").write_text(json.dumps(metrics))
    (run / evaluate["directory"] / "controls.json").write_text(json.dumps({HOSTILE[0]: [{HOSTILE[1]: HOSTILE[2]}]}))
    conflict = {"aligner": HOSTILE[0], "criterion": HOSTILE[6], "change": 0.5}
    stages = [
        write_stage(run, "questions", tables, rows_in=len(questions) * 2),
        align_stage(run, rows, steps),
        evaluate,
        entry(HOSTILE[1], HOSTILE[0], "1", directory="x", status=HOSTILE[2], inputs=(HOSTILE[0], "align")),
        entry(HOSTILE[0], HOSTILE[3], "2", directory="y", because=[HOSTILE[5]], status="stale", inputs=(HOSTILE[1],)),
        write_stage(run, "conflicts", {"conflicts": pa.Table.from_pylist([conflict])}),
    ]
    (run / stages[-1]["directory"] / "conflicts.json").write_text(json.dumps({"order": [HOSTILE[3]]}))
    write_about(
        run,
        stages,
        name=HOSTILE[0],
        started=HOSTILE[3],
        models={HOSTILE[0]: HOSTILE[1]},
        versions={HOSTILE[1]: HOSTILE[0]},
    )
    written(run)
    return run


@pytest.fixture(scope="module")
def squad(tmp_path_factory):
    """What aligning with a squad leaves: two criteria, each row's worst first, rewrites refused for several reasons."""
    folder = tmp_path_factory.mktemp("squad")
    engine = {"engine": "scripted", "args": {"function": "tests.scripted_models:aligner"}}
    members = [
        {
            "criterion": name,
            "inspector": f"scripted:tests.scripted_models:{inspector}",
            "aligner": "x",
            "engine": engine,
        }
        for name, inspector in (("long", "lengths"), ("open", "vowels"))
    ]
    (folder / "squad.yaml").write_text(json.dumps({"rounds": 3, "members": members}))
    rows = [{"question": f"q{n}?", "response": "bcd" * (n % 40 + 1) + "aei" * (n % 7)} for n in range(120)]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    given = [str(folder / "rows.jsonl"), "--squad", str(folder / "squad.yaml"), "-o", str(folder / "run")]
    assert align.main(given) == DONE
    assert main([str(folder / "run"), "--samples", "40"]) == DONE
    return folder / "run"


def table(run, name):
    return read_table(str(next((run / "align").glob("*"))), name).to_arrow().to_pylist()


def refused_turns(run):
    return [step for step in table(run, "trajectories") if step["decision"] == "refused"]


def test_squad_has_its_steps_its_aligners_and_what_was_refused(squad):
    page = Page((squad / "report.html").read_text(encoding="utf-8"))
    drawn = [attributes["data-figure"] for attributes in page.all("div") if "data-figure" in attributes]
    assert drawn[-2:] == ["trajectories", "aligners"]
    assert "What was refused, and why" in page.text
    refused = Counter((step["member"], step["reason"]) for step in refused_turns(squad))
    assert len({reason for _, reason in refused}) > 1
    for count in refused.values():
        assert str(count) in page.texts


def test_every_aligner_and_reason_has_a_sample_with_what_was_refused(squad):
    page = Page((squad / "report.html").read_text(encoding="utf-8"))
    assert len(page.all("article")) == 40
    turns = [*page.all("details"), *page.all("div")]
    told = Counter((turn["data-member"], turn["data-reason"]) for turn in turns if "data-reason" in turn)
    refused = refused_turns(squad)
    assert set(told) == {(step["member"], step["reason"]) for step in refused}
    assert page.text.count("Refused rewrite") == told.total()
    options = {attributes["value"] for attributes in page.all("option")}
    assert {"long", "open", "*", *(step["reason"] for step in refused)} <= options


def test_full_run_has_every_section_in_order(full):
    page = Page((full / "report.html").read_text(encoding="utf-8"))
    sections = [attributes["id"] for attributes in page.all("section")]
    assert sections == ["graph", "rows", "coverage", "training", "change", "steps", "evaluation", "samples", "made"]
    drawn = [attributes["data-figure"] for attributes in page.all("div") if "data-figure" in attributes]
    assert drawn == [
        "funnel",
        "reasons",
        "coverage",
        "inspector losses-inspector",
        "aligner losses-aligner",
        "scores-ethical",
        "lengths",
        "trajectories",
        "win-rates",
    ]
    assert "These are a toy’s figures." in page.text
    for told in (
        "14 March 2026, 09:26 UTC",
        "bag of words",
        "near_duplicate",
        "2.77.0",
        "0.810 – 0.893",
        "prompt too long",
    ):
        assert told in page.text, told


def test_align_alone_has_what_it_needs(tmp_path):
    page = Page(written(write_align_run(tmp_path)))
    sections = [attributes["id"] for attributes in page.all("section")]
    assert sections == ["graph", "rows", "coverage", "change", "steps", "samples", "made"]
    assert "toy" not in page.text
    assert len(page.all("article")) == 60


def test_figures_are_in_the_page_as_tables_too(full):
    html = (full / "report.html").read_text(encoding="utf-8")
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', html)[1])
    page = Page(html)
    assert set(figures) == {attributes["data-figure"] for attributes in page.all("div") if "data-figure" in attributes}
    # Open until the script has drawn the chart, so that nothing is hidden where scripts are off.
    assert len([attributes for attributes in page.all("details") if "open" in attributes]) == len(figures)


def test_page_is_the_same_each_time(tmp_path):
    run = write_align_run(tmp_path)
    assert written(run) == written(run)


def test_unfinished_stage_is_said_to_be(tmp_path):
    stages = [
        entry("questions", "questions", "1234", status="failed", seconds=3.0),
        entry("align", "align", "1234", status="running"),
    ]
    page = Page(written(write_about(tmp_path, stages)))
    assert "The step questions has not finished (failed)." in page.text
    assert "The step align has not finished (running)." in page.text
    assert [attributes["id"] for attributes in page.all("section")] == ["graph", "coverage", "change", "made"]


def test_run_without_stages_or_names(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    page = Page(written(tmp_path))
    assert [attributes["id"] for attributes in page.all("section")] == ["made"]


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A run with two align steps that its last evaluation judged in another order, and a third one that is not done."""
    run = tmp_path_factory.mktemp("several")
    stages = []
    for number, name in enumerate(("bold", "careful")):
        rows, steps = aligned_rows(random.Random(number), 30)
        for row in rows:
            row["question"] = f"{name}: {row['question']}"
        stages.append(align_stage(run, rows, steps, name))
    stages.append(entry("late", "align", "9", status="interrupted", inputs=("bold",)))
    table = {"win_rates": pa.table({"id": ["a"]})}
    stages.append(write_stage(run, "evaluate", table, inputs=("careful", "bold")))
    write_about(run, stages)
    written(run)
    return run


def test_every_alignment_has_its_charts_and_samples(several):
    page = Page((several / "report.html").read_text(encoding="utf-8"))
    drawn = [attributes["data-figure"] for attributes in page.all("div") if "data-figure" in attributes]
    assert [name for name in drawn if name.endswith("lengths")] == ["careful lengths", "bold lengths"]
    assert [name for name in drawn if name.endswith("trajectories")] == ["careful trajectories", "bold trajectories"]
    assert "The step late has not finished (interrupted)." in page.text
    assert Counter(article["data-alignment"] for article in page.all("article")) == {"careful": 30, "bold": 30}
    assert page.all("article")[0]["data-alignment"] == "careful"


def test_every_box_leads_to_a_part_of_the_page(several, full):
    for run in (several, full):
        page = Page((run / "report.html").read_text(encoding="utf-8"))
        ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
        assert len(ids) == len(set(ids))
        boxes = {box["data-step"]: box["href"] for box in page.all("a") if "data-step" in box}
        assert boxes.keys() == {entry["stage"] for entry in json.loads((run / "run.json").read_text())["stages"]}
        assert {link.removeprefix("#") for link in boxes.values()} <= set(ids)
    assert boxes["triples"] == "#step-triples"
    assert boxes["aligned"] == "#change-aligned"
    assert boxes["aligner"] == "#training-aligner"


def test_a_run_whose_members_score_nothing(tmp_path):
    """A member without an inspector has nulls for scores."""
    rows, steps = aligned_rows(random.Random(0), 4)
    for row in rows:
        row |= {"scores_before": {"ethical": None}, "scores_after": {"ethical": None}}
    for step in steps:
        step |= {"scores": [("ethical", None)], "candidate_scores": None}
    identity = {"members": [{"criterion": "ethical", "inspector": None, "threshold": 0.5}], "every_row": True}
    page = Page(written(write_about(tmp_path, [align_stage(tmp_path, rows, steps, identity=identity)])))
    assert len(page.all("article")) == 4
    assert [div["data-figure"] for div in page.all("div") if "data-figure" in div][-1] == "lengths"


def test_empty_tables(tmp_path):
    schema = aligned(CORPUS, ("ethical",))
    tables = {"aligned": schema.empty_table(), "trajectories": TRAJECTORIES.empty_table()}
    stages = [
        write_stage(tmp_path, "questions", {"questions": QUESTIONS.empty_table()}),
        write_stage(tmp_path, "align", tables),
    ]
    page = Page(written(write_about(tmp_path, stages)))
    assert [attributes["id"] for attributes in page.all("section")] == ["graph", "made"]


def test_null_and_long_texts(tmp_path):
    rows, steps = aligned_rows(random.Random(0), 2)
    rows[0] |= {"question": None, "response": None, "aligned": None, "topic": None, "decision": "failed"}
    rows[0] |= {"scores_before": None, "scores_after": None}
    rows[1] |= {"question": "", "response": "word " * 200_000, "aligned": "other " * 200_000, "decision": "rewritten"}
    html = written(write_about(tmp_path, [align_stage(tmp_path, rows, steps)]))
    page = Page(html)
    assert page.text.count("no text") == 2
    assert "empty text" in page.text
    assert f"The first {SHOWN_CHARACTERS:,} of 1,000,000 characters." in page.text
    assert "word " * 1000 not in page.text
    assert len(html) < 2_300_000


def test_refused_rewrite_is_shown(tmp_path):
    rows, steps = aligned_rows(random.Random(0), 1)
    rows[0] |= {"decision": "refused", "response": "Go away.", "aligned": "Go away."}
    steps[1] |= {"member": "ethical", "decision": "refused", "text": "Please stay.", "reason": "scored_lower"}
    page = Page(written(write_about(tmp_path, [align_stage(tmp_path, rows, steps)])))
    assert "Refused rewrite" in page.text
    assert "Please stay" in page.text
    assert "scored lower" in page.text


def test_page_asks_for_nothing(hostile):
    page = Page((hostile / "report.html").read_text(encoding="utf-8"))
    fetched = [
        attributes[name] for _, attributes in page.elements for name in ("src", "href", "action") if name in attributes
    ]
    assert {address for address in fetched if not address.startswith("#")} == {"data:,"}
    policy = next(
        entry["content"] for entry in page.all("meta") if entry.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-inline" not in policy.partition("style-src")[0]


def test_hostile_text_is_text(hostile):
    page = Page((hostile / "report.html").read_text(encoding="utf-8"))
    assert [tag for tag, _ in page.elements if tag in ("img", "iframe", "object", "foreignobject")] == []
    graph, *marks = page.all("svg")  # what of the legend is hidden has no text
    assert graph["aria-hidden"] == "true" or graph["class"] == "graph"
    assert {mark.get("class", "") for mark in [graph, *marks]} == {"", "graph"}
    assert [name for _, attributes in page.elements for name in attributes if name.startswith("on")] == []
    assert len(page.all("script")) == 3
    for attack in HOSTILE:
        assert attack in page.text


def test_samples_flag_limits_them(tmp_path):
    run = write_align_run(tmp_path)
    assert main([str(run), "--samples", "7"]) == DONE
    assert len(Page((run / "report.html").read_text(encoding="utf-8")).all("article")) == 7


def test_what_is_no_run_is_refused(tmp_path, capsys):
    assert main([str(tmp_path)]) == WRONG_USE
    assert "no run.json" in capsys.readouterr().err
    assert main([str(tmp_path), "--samples", "-1"]) == WRONG_USE
    assert "between 0 and 1000, not -1" in capsys.readouterr().err


def test_truncated_shard_is_named_and_the_old_report_stays(tmp_path, capsys):
    run = write_align_run(tmp_path)
    before = written(run)
    shard = next((run / "align").glob("*/aligned/shard-00000.parquet"))
    shard.write_bytes(shard.read_bytes()[:-9])
    assert main([str(run)]) == WRONG_USE
    assert "shard-00000.parquet" in capsys.readouterr().err
    assert (run / "report.html").read_text(encoding="utf-8") == before
    assert list(run.glob("report.html.*")) == []


# In the browser


@pytest.fixture(scope="session")
def chromium():
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not found:
        pytest.skip("no Chromium on the PATH; set CHROMIUM")
    return found


class Visit:
    """A page opened from disk in a browser that can resolve no name: its DOM, console lines and hosts asked for."""

    def __init__(self, chromium, page: Path, folder: Path):
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--virtual-time-budget=20000",
            "--enable-logging=stderr",
            "--dump-dom",
        ]
        netlog = folder / "net.json"
        flags += [
            f"--user-data-dir={folder}/profile",
            f"--log-net-log={netlog}",
            "--host-resolver-rules=MAP * ~NOTFOUND",
        ]
        done = subprocess.run([chromium, *flags, page.as_uri()], capture_output=True, timeout=120)
        self.dom = Page(done.stdout.decode("utf-8"))
        self.title = re.search(r"<title>(.*?)</title>", done.stdout.decode("utf-8"), re.DOTALL)[1]
        self.console = [line for line in done.stderr.decode().splitlines() if "CONSOLE" in line]
        hosts = {urlsplit(address).hostname for address in re.findall(r'"url":"(https?://[^"]+)"', netlog.read_text())}
        # What the browser itself asks its maker for.
        self.hosts = {host for host in hosts if not re.search(r"(^|\.)(google|googleapis|gvt1)\.com$", host)}


def test_visit_notices_scripts_and_requests(chromium, tmp_path):
    """The checks below would fail on a page that lets hostile text through."""
    page = tmp_path / "open.html"
    page.write_text(f"<title>ours</title><body>{HOSTILE[1]}<script>console.error('seen')</script>")
    visit = Visit(chromium, page, tmp_path)
    assert visit.title == "taken"
    assert visit.hosts == {"evil.invalid"}
    assert any("seen" in line for line in visit.console)


@pytest.mark.parametrize("name", ["full", "hostile", "squad", "several"])
def test_page_opens_from_disk_without_errors_or_requests(chromium, name, request, tmp_path):
    run = request.getfixturevalue(name)
    visit = Visit(chromium, run / "report.html", tmp_path)
    assert visit.title != "taken"
    assert visit.title.endswith("alignbeam report")
    assert visit.console == []
    assert visit.hosts == set()
    charts = [attributes for attributes in visit.dom.all("div") if "data-figure" in attributes]
    assert charts
    assert all("js-plotly-plot" in attributes["class"] for attributes in charts)
    assert [attributes for attributes in visit.dom.all("a") if not attributes.get("href", "#").startswith("#")] == []
    assert visit.dom.all("img") == []


def scripted(run, script, folder):
    """A copy of a run's report in which a script of the test's own runs after the page's."""
    html = (run / "report.html").read_text(encoding="utf-8")
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    page = folder / "page.html"
    page.write_text(html.replace("</body>", f"<script>{script}</script>"), encoding="utf-8")
    return page


def test_samples_are_filtered_by_aligner_and_reason(chromium, squad, tmp_path):
    script = """
      const tools = document.getElementById("tools"), told = [];
      const set = (decision, member, reason) => {
        for (const button of tools.elements.decision) button.checked = button.value === decision;
        tools.elements.member.value = member;
        tools.elements.reason.value = reason;
        tools.dispatchEvent(new Event("input"));
        const found = document.getElementById("place").textContent.match(/of (\\d+)/);
        told.push([decision, member, reason, found ? Number(found[1]) : 0]);
      };
      for (const { value } of [...tools.elements.reason.options])
        for (const member of ["", "long", "open"])
          for (const decision of ["", "refused"]) set(decision, member, value);
      document.title = JSON.stringify(told);
    """
    told = json.loads(Visit(chromium, scripted(squad, script, tmp_path), tmp_path).title)
    page = Page((squad / "report.html").read_text(encoding="utf-8"))
    ids = {text for text in page.texts if re.fullmatch("[0-9a-f]{32}", text)}
    rows = {row["id"]: row["decision"] for row in table(squad, "aligned") if row["id"] in ids}
    turns = [turn for turn in table(squad, "trajectories") if turn["member"] and turn["id"] in ids]
    for decision, member, reason, total in told:
        fits = {
            turn["id"]
            for turn in turns
            if member in ("", turn["member"])
            and (not reason or turn["decision"] == "refused")
            and reason in ("", "*", turn["reason"])
        }
        fits = fits if member or reason else ids
        assert total == len([row_id for row_id in fits if decision in ("", rows[row_id])]), (decision, member, reason)
    assert len({total for *_, total in told}) > 4


def test_samples_are_those_of_the_chosen_alignment(chromium, several, tmp_path):
    script = """
      const tools = document.getElementById("tools"), told = [];
      const tell = () => told.push([document.getElementById("place").textContent,
        new Set([...document.querySelectorAll("article")].map((article) => article.dataset.alignment)).size]);
      tell();
      for (const { value } of [...tools.elements.alignment.options]) {
        tools.elements.alignment.value = value;
        tools.dispatchEvent(new Event("input"));
        tell();
      }
      document.title = JSON.stringify(told);
    """
    told = json.loads(Visit(chromium, scripted(several, script, tmp_path), tmp_path).title)
    assert told == [["1–10 of 30", 1], ["1–10 of 30", 1], ["1–10 of 30", 1], ["1–10 of 60", 1]]


def test_samples_can_be_filtered_searched_sorted_and_paged(chromium, full, tmp_path):
    script = """
      const tools = document.getElementById("tools").elements, told = [];
      const tell = () => told.push([document.getElementById("place").textContent,
        [...document.querySelectorAll("article")].map((article) => article.dataset.gain * 1)]);
      const set = (name, value) => {
        tools[name].value = value;
        document.getElementById("tools").dispatchEvent(new Event("input"));
        tell();
      };
      tell();
      document.getElementById("next").click(); tell();
      set("decision", "failed");
      set("search", "ZOOS"); set("search", "no such text"); set("search", "");
      set("decision", "rewritten"); set("order", "gain"); set("order", "loss");
      document.title = JSON.stringify(told);
    """
    visit = Visit(chromium, scripted(full, script, tmp_path), tmp_path)
    told = json.loads(visit.title)
    places = [place for place, _ in told]
    assert places[:3] == ["1–10 of 240", "11–20 of 240", "1–5 of 5"]
    assert places[4] == "no sample fits"
    assert [len(gains) for _, gains in told[:3]] == [10, 10, 5]
    largest, smallest = told[-2][1], told[-1][1]
    assert largest == sorted(largest, reverse=True)
    assert smallest == sorted(smallest)
    assert largest[0] > smallest[-1]
