"""Tables judged by label: which rows are compared, and that figures of one table are what they always were."""

import numpy as np
import pyarrow as pa
import pytest
from one_step import do

from pipelines import evaluate
from pipelines.evaluate import KIND, Config, FolderConfig
from pipelines.runtime.estimates import Outlook, Prospect
from schemas.errors import StageError, UsageError
from schemas.settings import validated
from schemas.tables import WIN_RATES
from transforms.tables import storage
from transforms.tables.write import write_tables

JUDGE = {"judge": "scripted:tests.scripted_models:lengths"}
TEXTS = pa.schema([(name, pa.string()) for name in ("id", "question", "response", "aligned")])


def row(n, **more):
    texts = {"response": "r " * (7 * n % 5 + 1), "aligned": "a " * (5 * n % 7 + 1)}
    return {"id": str(n), "question": f"q{n}", **texts, **more}


ROWS = [row(n, **({"aligned": None} if n == 3 else {})) for n in range(12)]


def write(path, rows, shard_rows=5, **about):
    write_tables(str(path), {"aligned": pa.Table.from_pylist(rows)}, {"stage": "align", **about}, shard_rows)
    return str(path)


def judged(tmp_path, aligned, **settings):
    """The metrics of an evaluation, and its main table."""
    config = Config(aligned=aligned, **{"inspectors": JUDGE, "seed": 7, **settings})
    stage = do(KIND, config, tmp_path / "run")
    return storage.read_json(f"{stage.directory}/metrics.json"), stage.table("win_rates").to_arrow()


def test_the_figures_of_one_table(tmp_path):
    metrics, win_rates = judged(tmp_path, write(tmp_path / "a", ROWS))
    assert list(metrics) == ["labels", "over_seeds", "two_way", "shared_rows", "lacking"]
    assert metrics | {"labels": {}} == {
        "labels": {},
        "over_seeds": {},
        "two_way": [],
        "shared_rows": 11,
        "lacking": {"aligned": 1},
    }
    figures = metrics["labels"]["aligned"]
    assert figures["judges"] == [
        {
            "judge": "judge",
            "kind": "inspector",
            "n": 11,
            "win_rate": 0.5454545454545454,
            "ci95": [0.2727272727272727, 0.8204545454545434],
            "wins_over_decided": 0.75,
            "wins_over_decided_ci95": [0.5, 1.0],
            "wins": 6,
            "losses": 2,
            "ties": 3,
        }
    ]
    assert figures["score_shift"]["judge"]["mean_shift_interval"] == [-0.0036363636363636333, 0.05454545454545454]
    assert figures["score_level"]["judge"]["after"]["mean_interval"] == [0.060000000000000005, 0.10909090909090911]
    assert figures["text_change"]["words_change"]["sd"] == 2.572582713574399
    assert figures["by"] == {}
    assert win_rates.schema == WIN_RATES
    [line] = win_rates.to_pylist()
    assert (line["label"], line["judge"], line["n"], line["wins"], line["column"]) == ("aligned", "judge", 11, 6, "")


def test_texts_are_compared_of_the_first_rows_of_a_table(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "TEXT_ROWS", 2)
    rows = [row(n, aligned="w " * (n + 1)) for n in range(4)]
    paths = {"a": write(tmp_path / "a", rows), "b": write(tmp_path / "b", rows[:0:-1])}
    metrics, _ = judged(tmp_path, paths)
    words = {label: of_label["text_change"]["words_after"] for label, of_label in metrics["labels"].items()}
    assert {label: (of_label["rows"], of_label["mean"]) for label, of_label in words.items()} == {
        "a": (1, 2.0),  # row 0 is not shared
        "b": (2, 3.5),
    }


def test_labels_are_compared_on_the_rows_that_all_have_judged(tmp_path):
    """`off` lacks rows 1 (absent), 3 (no answer) and 5 (failed), `on` row 3 and 8; the rest is as if it were alone."""
    off = [row | {"decision": "failed" if row["id"] == "5" else "rewritten"} for row in ROWS if row["id"] != "1"]
    on = [row | {"aligned": row["response"] + "b"} for row in ROWS if row["id"] not in ("3", "8")]
    paths = {"guard off": write(tmp_path / "off", off), "guard on": write(tmp_path / "on", on[::-1], 4)}
    metrics, win_rates = judged(tmp_path, paths)
    assert (metrics["shared_rows"], metrics["lacking"]) == (8, {"guard off": 3, "guard on": 2})
    assert [(line["label"], line["n"]) for line in win_rates.to_pylist()] == [("guard off", 8), ("guard on", 8)]
    for label, rows in (("guard off", off), ("guard on", on)):
        shared = [row for row in rows if row["id"] not in ("1", "3", "5", "8")]
        alone, _ = judged(tmp_path / label, write(tmp_path / label / "alone", shared))
        judged_alone = alone["labels"]["aligned"]
        of_label = metrics["labels"][label]
        for name in ("judges", "score_shift", "score_level"):
            assert of_label[name] == judged_alone[name]
        assert of_label["text_change"]["words_after"]["mean"] == judged_alone["text_change"]["words_after"]["mean"]
    counts = storage.read_json(next(iter((tmp_path / "run" / "evaluate").glob("*/manifest.json"))).as_posix())["counts"]
    assert (counts["in"], counts["kept"]) == (12, 8)


def test_a_row_that_failed_counts_where_one_table_is_judged(tmp_path):
    rows = [row(1, decision="failed"), row(2, decision="rewritten")]
    metrics, _ = judged(tmp_path, write(tmp_path / "a", rows))
    assert (metrics["shared_rows"], metrics["lacking"]) == (2, {"aligned": 0})


def test_one_table_may_lack_most_of_its_answers(tmp_path):
    rows = [row(0), row(1, aligned=None), row(2, aligned=None)]
    metrics, _ = judged(tmp_path, write(tmp_path / "a", rows))
    assert (metrics["shared_rows"], metrics["lacking"]) == (1, {"aligned": 2})


def test_too_few_shared_rows_are_an_error_that_says_who_lacks_what(tmp_path):
    paths = {"a": write(tmp_path / "a", [row(n) for n in range(4)]), "b": write(tmp_path / "b", [row(0), row(9)])}
    said = r"^evaluate: 1 of 5 rows are judged under every label, under the floor of 50%: a lacks 1, b lacks 3\. "
    for _ in range(2):  # a second run is no way past the floor
        with pytest.raises(StageError, match=said):
            judged(tmp_path, paths)
    assert judged(tmp_path, paths, minimum_shared=0.2)[0]["shared_rows"] == 1


def test_categories_have_figures_of_their_own(tmp_path):
    rows = [row(n, kind="even" if n % 2 == 0 else "odd", level=n % 3) for n in range(6)]
    metrics, win_rates = judged(tmp_path, write(tmp_path / "a", rows), by=("kind", "level"))
    by = metrics["labels"]["aligned"]["by"]
    assert {column: list(values) for column, values in by.items()} == {
        "kind": ["even", "odd"],
        "level": ["0", "1", "2"],
    }
    alone, _ = judged(tmp_path / "odd", write(tmp_path / "odd" / "a", rows[1::2]))
    assert by["kind"]["odd"] == {name: alone["labels"]["aligned"][name] for name in ("judges", "score_shift")}
    assert [(line["column"], line["value"], line["n"]) for line in win_rates.to_pylist()] == [
        ("", "", 6),
        ("kind", "even", 3),
        ("kind", "odd", 3),
        ("level", "0", 2),
        ("level", "1", 2),
        ("level", "2", 2),
    ]


def test_replicates_are_summed_up_over_their_seeds(tmp_path):
    long = [row(n, aligned="a" * 30) for n in range(4)]
    short = [row(n, aligned="") for n in range(4)]
    labels = {"g@1": long, "g@2": short, "plain": long}
    paths = {label: write(tmp_path / f"t{number}", rows) for number, (label, rows) in enumerate(labels.items())}
    metrics, win_rates = judged(tmp_path, paths)
    assert list(metrics["labels"]) == ["g@1", "g@2", "plain"]
    assert list(metrics["over_seeds"]) == ["g"]
    [of_judge] = metrics["over_seeds"]["g"]["judges"]
    assert (of_judge["n"], of_judge["win_rate"], of_judge["ci95"]) == (4, 0.5, pytest.approx([-5.853, 6.853]))
    lines = [(line["label"], line["seeds"], line["win_rate"]) for line in win_rates.to_pylist()]
    assert lines == [("g@1", None, 1.0), ("g@2", None, 0.0), ("plain", None, 1.0), ("g", 2, 0.5)]


def test_the_column_that_its_maker_names_is_judged_unless_it_is_the_response(tmp_path):
    rows = [row(n, aligned="", correction="c" * 40, other="") for n in range(2)]
    for answer, wins in (("correction", 2), ("response", 0), ("", 0)):
        path = write(tmp_path / (answer or "none"), rows, answer=answer)
        metrics, _ = judged(tmp_path, path)
        assert metrics["labels"]["aligned"]["judges"][0]["wins"] == wins
    metrics, _ = judged(tmp_path, {"table": path, "answer": "other"})
    assert metrics["labels"]["aligned"]["judges"][0]["losses"] == 2
    both = {"a": {"table": path, "answer": "other"}, "b": {"table": path, "answer": "correction"}}
    metrics, _ = judged(tmp_path, both)
    assert [of_label["judges"][0]["wins"] for of_label in metrics["labels"].values()] == [0, 2]


def test_a_pair_ranker_and_two_way_items_are_judged_too(tmp_path, monkeypatch):
    class Ranker:
        def compare(self, questions, a, b):
            return np.array([len(left) - len(right) for left, right in zip(a, b, strict=True)], np.float64)

    monkeypatch.setattr("transforms.evaluation.judges.open_pair_ranker", lambda folder: Ranker())
    items = [{"question": "q", "response": "r" * n, "correction": "cc"} for n in (1, 3)]
    settings = {"pair_ranker": "m", "two_way": {"hhh": write(tmp_path / "hhh", items)}}
    metrics, win_rates = judged(tmp_path, write(tmp_path / "a", ROWS), **settings)
    assert [(one["judge"], one["file"], one["accuracy"]) for one in metrics["two_way"]] == [
        ("judge", "hhh", 0.5),
        ("pair-ranker", "hhh", 0.5),
    ]
    assert [(one["judge"], one["kind"]) for one in metrics["labels"]["aligned"]["judges"]] == [
        ("judge", "inspector"),
        ("pair-ranker", "pair-ranker"),
    ]
    assert win_rates["shift"].null_count == 1


class Fragile:
    """Dies of a text; notes what it scored."""

    scored: list[str]

    def __init__(self, dies_of):
        self.scored, self.dies_of = [], dies_of

    def score(self, questions, answers):
        if self.dies_of in answers:
            raise RuntimeError("no more")
        self.scored += answers
        return np.zeros(len(answers))


def test_what_was_judged_is_not_judged_again(tmp_path, monkeypatch):
    paths = {"a": write(tmp_path / "a", [row(1, aligned="first")]), "b": write(tmp_path / "b", [row(1, aligned="bad")])}
    inspector = Fragile("bad")
    monkeypatch.setattr("transforms.evaluation.judges.open_inspector", lambda folder: inspector)
    with pytest.raises(RuntimeError, match="no more"):
        judged(tmp_path, paths)
    inspector.dies_of = ""
    judged(tmp_path, paths)
    assert [text for text in inspector.scored if text in ("first", "bad")] == ["first", "bad"]


def test_judges_are_called_as_a_recipe_refers_to_them_and_by_their_folders_on_a_command_line():
    references = ("civic/inspector", "judge-civic")
    settings = {"aligned": "t", "inspectors": references, "two_way": ("tables/hhh",)}
    config = validated(Config, "recipe", settings)
    assert config.inspectors == {reference: reference for reference in references}
    typed = {"inspectors": ("models/judge", "a=models/b", "http://h/m?a=b", "r/")}
    config = validated(FolderConfig, "flags", settings | typed)
    assert config.inspectors == {"judge": "models/judge", "a": "models/b", "m": "http://h/m?a=b", "r": "r/"}
    assert config.two_way == {"hhh": "tables/hhh"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "inspectors, pair_ranker: give at least one judge"),
        ({"inspectors": ("a", "a")}, "inspectors: one is there twice: a, a"),
        (
            {"inspectors": {"pair-ranker": "m"}, "pair_ranker": "r"},
            "inspectors: pair-ranker is what the pair-ranker is",
        ),
        ({"inspectors": ("a",), "by": ("x", "x")}, "by: a column is there twice: x, x"),
        ({"inspectors": ("a",), "minimum_shared": 1.5}, "minimum_shared: must be between 0 and 1, not 1.5"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        validated(Config, "recipe", {"aligned": "t", **settings})


def test_two_folders_of_one_name_need_names():
    with pytest.raises(UsageError, match="inspector: two are called alike: judge; give NAME=FOLDER"):
        evaluate.by_name("inspector", ("a/judge", "b/judge"))


def gives(schema, aligned="t", path="aligned", **settings):
    return KIND.gives(Config(aligned=aligned, inspectors=JUDGE, **settings), {path: schema})


def test_columns_are_looked_for_before_anything_runs():
    kinds = pa.schema([*TEXTS, ("kind", pa.string()), ("level", pa.int8()), ("scores", pa.struct({"a": pa.float64()}))])
    assert gives(kinds, by=("kind", "level")) == {"win_rates": WIN_RATES}
    assert KIND.gives(Config(aligned="t", inspectors=JUDGE, by=("kind",)), {}) == {"win_rates": WIN_RATES}
    assert gives(pa.schema([*TEXTS.remove(3), ("correction", pa.string())]))
    with pytest.raises(UsageError, match="by: aligned has no column 'kinds'; it has id, question, response, aligned"):
        gives(TEXTS, by=("kinds",))
    with pytest.raises(UsageError, match="by: column 'scores' of aligned holds struct.* which is no category"):
        gives(kinds, by=("scores",))
    with pytest.raises(UsageError, match="aligned.off: has no column 'aligned'"):
        gives(TEXTS.remove(3), {"off": "t"}, "aligned.off")
    with pytest.raises(UsageError, match="aligned: has no column 'better'"):
        gives(TEXTS, {"table": "t", "answer": "better"})


def test_a_table_without_a_column_is_refused_before_a_judge_is_asked(tmp_path):
    with pytest.raises(UsageError, match="by: .*/a has no column 'kind'; it has id, question, response, aligned"):
        judged(tmp_path, write(tmp_path / "a", ROWS), by=("kind",))
    with pytest.raises(UsageError, match="has no column 'id'"):
        judged(tmp_path, write(tmp_path / "b", [{"question": "q", "response": "r", "aligned": "a"}]))


def test_the_outlook_has_a_row_for_each_label_and_judge():
    judges = {"inspectors": JUDGE, "pair_ranker": "m"}
    assert KIND.estimate(Config(aligned="t", **judges), Prospect()) == Outlook(2)
    labelled = {"g@1": "t", "g@2": "t", "plain": "t"}
    assert KIND.estimate(Config(aligned=labelled, **judges), Prospect()) == Outlook(8)
    assert KIND.estimate(Config(aligned="t", by=("kind",), **judges), Prospect()) == Outlook(None)


def test_every_label_its_categories_and_what_it_lacks_are_printed(tmp_path, capsys):
    rows = [row(n, kind="k" if n else None) for n in range(3)]
    paths = {"g@1": write(tmp_path / "a", rows), "g@2": write(tmp_path / "b", rows[:2])}
    judged(tmp_path, paths, by=("kind",))
    said = capsys.readouterr().err
    for title in ("g@1 against original", "g@2 by kind: win rates", "g, mean of 2 seeds: by kind", "(none)"):
        assert title in said
    assert "g@2 lacks 1 rows; 2 are compared" in said
    judged(tmp_path, paths, by=("kind",))
    assert "g@1 against original" in capsys.readouterr().err
