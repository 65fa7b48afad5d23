"""What differs between two runs: settings, counts and figures of their steps, side by side."""

import json

import pytest

from pipelines.commands.diff import differences, main, numbers_in, one_sided, shown
from pipelines.runtime.runs import open_run


def write_run(folder, name, *, steps):
    """Write a run directory of finished steps; each has its identity, counts and metrics, by name."""
    run = folder / name
    entries = []
    for step, (identity, counts, metrics) in steps.items():
        directory = run / "kind" / step
        directory.mkdir(parents=True)
        (directory / "manifest.json").write_text(json.dumps({"identity": identity, "counts": counts, "tables": {}}))
        if metrics is not None:
            (directory / "metrics.json").write_text(json.dumps(metrics))
        entries.append({"stage": step, "kind": "kind", "directory": f"kind/{step}", "status": "done"})
    (run / "run.json").write_text(json.dumps({"name": name, "stages": entries}))
    return str(run)


@pytest.fixture
def two(tmp_path, monkeypatch):
    """Two runs that differ in a setting, a count and a figure, and in a step that only one has."""
    monkeypatch.chdir(tmp_path)
    counts = {"in": 10, "kept": 8, "drops": {"too_short": 2}}
    judged = [{"judge": "polite", "win_rate": 0.5, "n": 8}, {"judge": "civic", "win_rate": 0.25, "n": 8}]
    write_run(
        tmp_path,
        "monday",
        steps={
            "questions": ({"stage": "questions", "sampling": {"max_tokens": 300}, "seed": 1}, counts, None),
            "evaluation": ({"seed": 1}, counts, {"judges": judged, "rows": 8, "versions": {"a": 1}, "history": [1]}),
        },
    )
    better = [judged[1], {**judged[0], "win_rate": 0.75}]
    write_run(
        tmp_path,
        "tuesday",
        steps={
            "questions": (
                {"stage": "questions", "sampling": {"max_tokens": 200}, "seed": 1},
                {"in": 10, "kept": 7, "drops": {"too_short": 2, "banned": 1}},
                None,
            ),
            "evaluation": ({"seed": 1}, counts, {"judges": better, "rows": 8, "versions": {"a": 2}, "history": [2]}),
            "more": ({"limit": 3}, {"in": 3, "kept": 3}, None),
        },
    )
    return tmp_path


def test_what_differs_is_told_by_step_and_name(two):
    assert differences(open_run("monday"), open_run("tuesday")) == {
        "settings": {"questions sampling.max_tokens": (300, 200)},
        "counts": {"questions kept": (8, 7), "questions drops.banned": (None, 1)},
        "figures": {"evaluation judges.polite.win_rate": (0.5, 0.75)},
    }


def test_all_is_told_where_it_is_asked_for(two):
    sides = differences(open_run("monday"), open_run("tuesday"), shows_all=True)
    assert sides["settings"]["questions seed"] == (1, 1)
    assert sides["figures"] == {
        "evaluation judges.polite.win_rate": (0.5, 0.75),
        "evaluation judges.polite.n": (8, 8),
        "evaluation judges.civic.win_rate": (0.25, 0.25),
        "evaluation judges.civic.n": (8, 8),
        "evaluation rows": (8, 8),
    }


def test_the_runs_stand_side_by_side(two, capsys):
    assert main(["monday", "tuesday"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["steps"],
        ["monday", "tuesday"],
        ["more", "–", "done"],
        ["settings"],
        ["monday", "tuesday"],
        ["questions", "sampling.max_tokens", "300", "200"],
        ["counts"],
        ["monday", "tuesday"],
        ["questions", "kept", "8", "7"],
        ["questions", "drops.banned", "–", "1"],
        ["figures"],
        ["monday", "tuesday"],
        ["evaluation", "judges.polite.win_rate", "0.5", "0.75"],
    ]


def test_equal_runs_have_no_difference(two, capsys):
    assert main(["monday", "./monday/"]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [f"{part}: no difference" for part in ("steps", "settings", "counts", "figures")]
    assert main(["monday", "monday", "--all"]) == 0
    assert "questions sampling.max_tokens" in capsys.readouterr().out


def test_a_step_that_is_not_done_has_nothing_to_compare(two):
    about = json.loads((two / "tuesday" / "run.json").read_text())
    about["stages"][0] |= {"directory": "kind", "status": "to do"}
    (two / "tuesday" / "run.json").write_text(json.dumps(about))
    runs = open_run("monday"), open_run("tuesday")
    assert one_sided(*runs) == {"questions": ("done", "to do"), "more": ("–", "done")}
    assert "questions kept" not in differences(*runs)["counts"]
    assert differences(*runs, shows_all=True)["counts"]["questions kept"] == (8, None)


def test_digests_are_shown_as_short_as_directories_have_them():
    assert shown(["0123456789abcdef0123456789abcdef", "aligned"]) == "['0123456789ab', 'aligned']"
    assert shown("0123456789abcdef") == "0123456789abcdef"


def test_lists_of_figures_go_by_number_and_by_judge():
    value = {"a": [1, True, None, "x", {"b": 2.5}], "c": [{"judge": "j", "d": 3}]}
    assert dict(numbers_in(value)) == {"a.0": 1, "a.4.b": 2.5, "c.j.d": 3}


def test_a_folder_that_is_no_run_is_wrong_use(two, capsys):
    assert main(["monday", "nowhere"]) == 2
    assert "nowhere: no run.json there" in capsys.readouterr().err
