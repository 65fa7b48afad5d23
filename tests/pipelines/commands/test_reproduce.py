"""Tables of the papers, filled from a run directory that is written by hand: no model answers here."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.commands import reproduce, run
from pipelines.commands.paper_formats import csv_text, escaped, latex_text
from pipelines.commands.paper_tables import Part, Reads, Row, fill, read_tables
from pipelines.recipe.graph import Told, read_graph
from pipelines.recipe.registry import STAGES
from pipelines.runtime.runs import open_run
from schemas.errors import StageError
from transforms.tables.write import write_tables

WIN_RATES = [
    {"label": "GPT-2 Large", "judge": "ethical", "win_rate": 0.8125, "low": 0.7, "high": 0.9},
    {"label": "GPT-2 Large", "judge": "pair-ranker", "win_rate": 0.5, "low": None, "high": None},
    {"label": "Pythia-1.4B", "judge": "ethical", "win_rate": None, "low": None, "high": None},
    {"label": "RedPajama-3B", "judge": "ethical", "win_rate": 0.25, "low": 0.125, "high": 0.375},
]
TWO_WAY = [
    {"judge": "pair-ranker", "file": "honest", "accuracy": 0.1, "accuracy_interval": [0.0, 0.2], "items": 10},
    {"judge": "ethical", "file": "harmless", "accuracy": 0.75, "accuracy_interval": [0.625, 0.875], "items": 58},
]
CSV = """\
Synthetic Test Data: Aligner,Win Rate (Inspector): paper,Win Rate (Inspector): ours,Win Rate (Inspector): low,\
Win Rate (Inspector): high,Win Rate (PairRanker): paper,Win Rate (PairRanker): ours,Win Rate (PairRanker): low,\
Win Rate (PairRanker): high,rows,not there yet
GPT-2 Large,0.870,0.8125,0.7,0.9,0.718,0.5,,,6000,
Pythia-1.4B,0.877,,,,0.680,,,,,"Win Rate (Inspector): step evaluation has no win_rate there; \
Win Rate (PairRanker): step evaluation has 0 rows of label 'Pythia-1.4B', judge 'pair-ranker'"
RedPajama-3B,0.894,0.25,0.125,0.375,0.686,,,,6000,\
"Win Rate (PairRanker): step evaluation has 0 rows of label 'RedPajama-3B', judge 'pair-ranker'"
Big-bench Harmless Data: Dataset,Accuracy (Inspector): paper,Accuracy (Inspector): ours,Accuracy (Inspector): low,\
Accuracy (Inspector): high,Accuracy (PairRanker): paper,Accuracy (PairRanker): ours,Accuracy (PairRanker): low,\
Accuracy (PairRanker): high,rows,not there yet
Big-bench Harmless,0.741,0.75,0.625,0.875,0.828,,,,58,"Accuracy (PairRanker): step evaluation says \
nothing of file 'harmless', judge 'pair-ranker'"
"""
LATEX = r"""% 000:table1: Table 1, recipe paper_000, run by_hand, seed 42
\begin{tabular}{lrlrl}
\hline
\multicolumn{5}{l}{Synthetic Test Data} \\
Aligner & \multicolumn{2}{l}{Win Rate (Inspector)} & \multicolumn{2}{l}{Win Rate (PairRanker)} \\
 & paper & ours & paper & ours \\
\hline
GPT-2 Large & 0.870 & 0.812 (0.700--0.900) & 0.718 & 0.500 \\
Pythia-1.4B & 0.877 &  & 0.680 &  \\
RedPajama-3B & 0.894 & 0.250 (0.125--0.375) & 0.686 &  \\
\hline
\multicolumn{5}{l}{Big-bench Harmless Data} \\
Dataset & \multicolumn{2}{l}{Accuracy (Inspector)} & \multicolumn{2}{l}{Accuracy (PairRanker)} \\
 & paper & ours & paper & ours \\
\hline
Big-bench Harmless & 0.741 & 0.750 (0.625--0.875) & 0.828 &  \\
\hline
\multicolumn{5}{l}{Ours: of 58--6000 rows, with 95 \% intervals} \\
\multicolumn{5}{l}{The figures are a toy's.} \\
\multicolumn{5}{l}{Not there yet: step evaluation has no win\_rate there (1 cell)} \\
\multicolumn{5}{l}{Not there yet: step evaluation has 0 rows of label 'Pythia-1.4B', judge 'pair-ranker' (1 cell)} \\
\multicolumn{5}{l}{Not there yet: step evaluation has 0 rows of label 'RedPajama-3B', judge 'pair-ranker' (1 cell)} \\
\multicolumn{5}{l}{Not there yet: step evaluation says nothing of file 'harmless', judge 'pair-ranker' (1 cell)} \\
\end{tabular}
"""


def write_run(path: Path, status: str = "done", **entry: object) -> Path:
    """Write a run of one evaluation, which stands as `status` says."""
    rows = [{"n": 6000, "column": "", "value": "", **row} for row in WIN_RATES]
    of_a_category = {**rows[0], "column": "question_type", "value": "advice", "win_rate": 0.125}
    write_step(path, "evaluation", {"win_rates": [*rows, of_a_category]}, {"two_way": TWO_WAY})
    about = {"stage": "evaluation", "kind": "evaluate", "directory": "evaluation", "status": status, **entry}
    return write_about(path, about)


def write_step(path: Path, name: str, tables: dict[str, list[dict]], metrics: dict | None = None) -> None:
    directory = path / name
    directory.mkdir(parents=True)
    made = {table: pa.Table.from_pylist(rows) for table, rows in tables.items()}
    write_tables(str(directory), made, {"stage": name}, 100, {"in": 1, "kept": 1, "drops": {}, "rejects": {}})
    (directory / "metrics.json").write_text(json.dumps(metrics))


def write_about(path: Path, *entries: dict) -> Path:
    about = {"name": "by_hand", "seed": 42, "toy": True, "stages": list(entries)}
    (path / "run.json").write_text(json.dumps(about))
    return path


def test_a_table_has_the_papers_layout_and_says_what_is_not_there(tmp_path):
    finished = open_run(str(write_run(tmp_path)))
    table = read_tables()["000:table1"]
    parts = fill(table, finished)
    assert csv_text(parts) == CSV
    assert latex_text("000:table1", table, parts, finished) == LATEX


@pytest.mark.parametrize(
    ("status", "because", "reason"),
    [
        ("stale", ["aligned is not done"], "step evaluation is stale (aligned is not done)"),
        ("running", [], "step evaluation is running"),
    ],
)
def test_what_is_not_done_gives_no_figure(tmp_path, status, because, reason):
    finished = open_run(str(write_run(tmp_path, status, because=because)))
    table = read_tables()["000:table1"]
    parts = synthetic, harmless = fill(table, finished)
    cells = [cell for part in (synthetic, harmless) for row in part.cells.values() for cell in row]
    assert len(cells) == 8
    assert {(cell.value, cell.low, cell.high, cell.n, cell.missing) for cell in cells} == {(None,) * 4 + (reason,)}
    assert [cell.paper for cell in synthetic.cells["Pythia-1.4B"]] == ["0.877", "0.680"]
    assert rf"\multicolumn{{5}}{{l}}{{Not there yet: {reason} (8 cells)}} \\" in latex_text("t", table, parts, finished)


def test_a_mean_is_taken_of_the_rows_of_a_step(tmp_path):
    steps = [(0, 0.25), (0, 0.75), (1, 1.0), (1, None)]
    rows = [{"step": step, "scores": [] if score is None else [("ethical", score)]} for step, score in steps]
    scores = pa.map_(pa.string(), pa.float64())
    trajectories = pa.Table.from_pylist(rows, pa.schema({"step": pa.int32(), "scores": scores}))
    (tmp_path / "aligned").mkdir()
    counts = {"in": 4, "kept": 4, "drops": {}, "rejects": {}}
    write_tables(str(tmp_path / "aligned"), {"trajectories": trajectories}, {"stage": "aligned"}, 100, counts)
    finished = open_run(str(write_about(tmp_path, {"stage": "aligned", "directory": "aligned", "status": "done"})))
    part = Part(
        title="Means",
        corner="Step",
        columns={"ethical": "ethical", "factual": "factual", "GPT-4": None},
        rows={"first": Row(key="0"), "second": Row(key="1")},
        reads=Reads(step="aligned", table="trajectories", where={"step": "{row}"}, mean="scores.{column}"),
        needs="a judge",
    )
    table = reproduce.PaperTable(paper="Figure", about="", recipe="any", parts=(part,))
    (filled,) = fill(table, finished)
    first, second = filled.cells.values()
    assert (first[0].value, first[0].n, second[0].value, second[0].n) == (0.5, 2, 1.0, 1)
    assert first[1].missing == "step aligned has no scores.factual where step '0'"
    assert first[2].missing == "a judge"


def test_latex_prints_every_text_as_it_is():
    assert escaped("50 % & a_b #1 $x {y}\n~^ \\ a–b") == (
        r"50 \% \& a\_b \#1 \$x \{y\} \textasciitilde{}\textasciicircum{} \textbackslash{} a--b"
    )


def flags_of(*arguments: str, monkeypatch: pytest.MonkeyPatch, fails: bool = False) -> tuple[int, list]:
    """Return the exit code of the command, and what it ran; a run that does the work writes the one by hand."""
    ran = []

    def do(config: run.Config, told: Told) -> int:
        ran.append((config.recipe, config.output, config.plan, config.limit, told.models))
        if config.plan:
            return 0
        write_run(Path(config.output))
        if fails:
            raise StageError("the engine is gone")
        return 3

    monkeypatch.setattr(run, "run", do)
    return reproduce.main(list(arguments)), ran


def test_the_cost_comes_first_and_flags_go_to_the_run(tmp_path, monkeypatch, capsys):
    output = str(tmp_path / "out")
    flags = ("000:table1", "-o", output, "--limit", "5", "--model", "teacher=small")
    code, ran = flags_of(*flags, monkeypatch=monkeypatch)
    same = ("paper_000", output), (5, {"teacher": "small"})
    assert (code, ran) == (3, [(*same[0], True, *same[1]), (*same[0], False, *same[1])])
    assert (tmp_path / "out/tables/000-table1.csv").read_text() == CSV
    assert (tmp_path / "out/tables/000-table1.tex").read_text() == LATEX
    said = capsys.readouterr().err
    assert "written: " in said
    assert "Our figures are a toy's." in said
    assert "not there yet: 1 of ours: step evaluation has no win_rate there" in said


def test_a_plan_runs_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, ran = flags_of("002:figure2", "--plan", monkeypatch=monkeypatch)
    assert (code, ran) == (0, [("paper_002", "runs/paper_002", True, None, {})])
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_leaves_the_table_of_what_is_there(tmp_path, monkeypatch):
    code, _ = flags_of("000:table1", "-o", str(tmp_path / "out"), monkeypatch=monkeypatch, fails=True)
    assert code == 1
    assert (tmp_path / "out/tables/000-table1.csv").read_text() == CSV


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("003:table1", "003:table1 (Table 1): cannot be made here yet; it needs the stage kinds of paper 003"),
        ("000:tabel1", "000:tabel1: no such table; did you mean '000:table1'?"),
    ],
)
def test_what_cannot_be_made_says_so_before_work(target, said, monkeypatch, capsys):
    code, ran = flags_of(target, monkeypatch=monkeypatch)
    assert (code, ran) == (2, [])
    assert said in " ".join(capsys.readouterr().err.split())


def test_without_a_target_all_are_listed(monkeypatch, capsys):
    code, ran = flags_of(monkeypatch=monkeypatch)
    listed = capsys.readouterr().out
    assert (code, ran) == (0, [])
    assert [target for target in read_tables() if target not in listed] == []
    assert re.search(r"^by recipe paper_000\n 000:table1 +Table 1: win rates", listed)
    assert re.search(r"^needs 36 people\n 003:user_study +appendix H: ", listed, re.MULTILINE)


@pytest.mark.parametrize("target", [target for target, table in read_tables().items() if table.recipe])
def test_every_figure_is_read_where_its_recipe_has_one(target, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    row = {"question": "Why?", "question_type": "self_harm"}
    (tmp_path / "data/beavertails_evaluation.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.chdir(tmp_path)
    table = read_tables()[target]
    steps = {step.name: step for step in read_graph(table.recipe, STAGES).steps}
    for part in table.parts:
        for row in part.rows.values():
            for column in filter(None, part.columns.values()):
                reads = part.reads.at_cell(row.key, column)
                config = steps[reads.step].config
                if reads.table == "win_rates":
                    assert reads.where["label"] in config.aligned
                    assert reads.where["judge"] in (*config.inspectors, "pair-ranker")
                    assert reads.where["column"] in ("", *config.by)
                if reads.table in ("conflicts", "trajectories"):
                    members = [member.criterion for member in config.members]
                    assert column in members


def test_a_table_has_a_value_for_each_column():
    with pytest.raises(ValueError, match=r"rows\.a: 1 values of the paper for 2 columns"):
        Part(
            title="",
            corner="",
            columns={"x": "x", "y": "y"},
            rows={"a": Row(key="a", paper=("1",))},
            reads=Reads(step="s"),
        )
