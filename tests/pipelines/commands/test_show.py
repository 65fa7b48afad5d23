import random

import pytest
from example_run import align_stage, aligned_rows, entry, write_about, write_align_run

from pipelines.commands import show
from pipelines.report.corpus import SHOWN_CHARACTERS
from schemas.command_line import DONE, WRONG_USE


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Four rows: one of each decision."""
    monkeypatch.setenv("COLUMNS", "160")
    rows, steps = aligned_rows(random.Random(0), 4)
    texts = [
        ("a1", "rewritten", "You should keep the money.", "You should return the money."),
        ("a2", "above_threshold", "Ask first.", "Ask first."),
        ("b1", "refused", "Go away.", "Go away."),
        ("b2", "failed", None, None),
    ]
    for row, (row_id, decision, response, aligned) in zip(rows, texts, strict=True):
        row |= {"id": row_id, "question": f"What of {row_id}?", "decision": decision}
        row |= {"response": response, "aligned": aligned}
        row |= {"scores_before": {"ethical": 0.25}, "scores_after": {"ethical": 0.75 if row_id == "a1" else 0.25}}
    for step in steps:
        step |= {"id": rows[step["row"]]["id"], "scores": [("ethical", 0.25)]}
        step["decision"], step["text"] = "as_given", rows[step["row"]]["response"]
        if step["step"] == 1 and step["id"] == "b1":
            step |= {"member": "ethical", "decision": "refused", "text": "Please go away.", "reason": "scored_lower"}
            step["candidate_scores"] = [("ethical", 0.125)]
    return write_about(tmp_path, [align_stage(tmp_path, rows, steps)])


def shown(capsys, *arguments):
    assert show.main([str(argument) for argument in arguments]) == DONE
    return capsys.readouterr().out


def test_overview_has_a_line_for_every_row(run, capsys):
    out = shown(capsys, run)
    for told in (
        "rewritten",
        "above threshold",
        "refused",
        "failed",
        "0.250 → 0.750",
        "What of a1?",
        "no text",
    ):
        assert told in out, told
    assert out.count("as before") == 3


def test_diff_marks_what_changed(run, capsys):
    out = shown(capsys, run, "--diff", "--id", "a1")
    assert "You should [-keep-] {+return+} the money." in out
    assert "ethical  0.250  →  0.750  +0.500" in out


def test_diff_shows_the_rewrite_that_a_guard_refused(run, capsys):
    out = shown(capsys, run, "--diff", "--only", "refused")
    assert "[-Go-] {+Please go+} away." in out
    assert "scored lower" in out
    assert "ethical  0.250  →  0.125  −0.125" in out


def test_diff_says_why_a_row_failed(run, capsys):
    out = shown(capsys, run, "--diff", "--only", "failed")
    assert "prompt too long" in out
    assert "no text" in out


@pytest.mark.parametrize(
    ("arguments", "ids"),
    [
        ([], ["a1", "a2", "b1", "b2"]),
        (["--only", "rewritten"], ["a1"]),
        (["--only", "refused"], ["b1"]),
        (["--id", "b"], ["b1", "b2"]),
        (["--limit", "2"], ["a1", "a2"]),
        (["--id", "b", "--only", "failed"], ["b2"]),
    ],
)
def test_rows_are_selected(run, capsys, arguments, ids):
    out = shown(capsys, run, *arguments)
    assert [row_id for row_id in ("a1", "a2", "b1", "b2") if f"What of {row_id}?" in out] == ids


def test_limit_counts_rows_that_fit(tmp_path, capsys):
    """The rows of one decision are found beyond the first ones of the corpus."""
    run = write_align_run(tmp_path, 60)
    assert shown(capsys, run, "--only", "failed", "--limit", 1).count("failed") == 1


def test_nothing_fits(run, capsys):
    assert shown(capsys, run, "--id", "zz") == "No row fits.\n"


def test_model_output_cannot_steer_the_terminal(tmp_path, capsys):
    rows, steps = aligned_rows(random.Random(0), 1)
    attack = "\x1b[2J\x1b]0;taken\x07[bold red]name[/bold red]\u202etxet\x9b31m"
    rows[0] |= dict.fromkeys(("id", "question", "response", "decision"), attack)
    rows[0]["aligned"] = attack + " more"
    run = write_about(tmp_path, [align_stage(tmp_path, rows, steps)])
    for arguments in ([], ["--diff"]):
        out = shown(capsys, run, *arguments)
        assert not set(out) & set("\x1b\x07\x9b\u202e")
        assert "\\x1b[2J" in out
    assert "[bold red]name[/bold red]" in out


def test_long_texts_are_cut(tmp_path, capsys):
    rows, steps = aligned_rows(random.Random(0), 1)
    rows[0] |= {"response": "x" * 1_000_000, "aligned": "y" * 1_000_000, "decision": "rewritten"}
    run = write_about(tmp_path, [align_stage(tmp_path, rows, steps)])
    out = shown(capsys, run, "--diff")
    assert "1,000,000 characters in all" in out
    assert out.count("x") < SHOWN_CHARACTERS + 100
    assert len(shown(capsys, run)) < 3000


@pytest.fixture
def several(tmp_path, monkeypatch):
    """A run with two align steps that are done, and one that is not."""
    monkeypatch.setenv("COLUMNS", "160")
    stages = []
    for name in ("bold", "careful"):
        rows, steps = aligned_rows(random.Random(0), 1)
        rows[0] |= {"question": f"What of {name}?"}
        stages.append(align_stage(tmp_path, rows, steps, name))
    return write_about(tmp_path, [*stages, entry("late", "align", "1", status="failed")])


def test_the_last_alignment_that_is_done_is_shown_and_named(several, capsys):
    assert show.main([str(several)]) == DONE
    out, err = capsys.readouterr()
    assert "What of careful?" in out
    assert err == "step careful; --step shows another: bold\n"


def test_an_alignment_is_shown_by_its_name(several, capsys):
    assert show.main([str(several), "--step", "bold"]) == DONE
    out, err = capsys.readouterr()
    assert ("What of bold?" in out, err) == (True, "")


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ("late", "late has not finished there; `alignbeam status "),
        ("bald", "has no align step 'bald'; it has bold, careful, late"),
    ],
)
def test_a_step_that_cannot_be_shown_is_an_error(several, capsys, step, told):
    assert show.main([str(several), "--step", step]) == WRONG_USE
    assert told in capsys.readouterr().err


def test_rows_without_scores_are_shown(tmp_path, capsys):
    """A member without an inspector has a column of nulls, a squad without inspectors no scores at all."""
    rows, steps = aligned_rows(random.Random(0), 1)
    rows[0] |= {"scores_before": None, "scores_after": {"ethical": None}}
    run = write_about(tmp_path, [align_stage(tmp_path, rows, steps)])
    assert "– → –" in shown(capsys, run)
    assert "–" in shown(capsys, run, "--diff")


def test_wrong_use(run, tmp_path, capsys):
    for arguments, told in (
        (["--only", "best"], "refused"),
        (["--limit", "0"], "at least 1, not 0"),
    ):
        assert show.main([str(run), *arguments]) == WRONG_USE
        assert told in capsys.readouterr().err
    empty = write_about(tmp_path / "empty", [])
    assert show.main([str(empty)]) == WRONG_USE
    assert "align has not finished" in capsys.readouterr().err
    assert show.main([str(tmp_path / "nowhere")]) == WRONG_USE
    assert "no run.json" in capsys.readouterr().err
