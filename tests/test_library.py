"""What `import alignbeam` gives: every example of docs/library.md runs as it stands."""

import contextlib
import io
import json
import re
import subprocess
import sys

import pyarrow as pa
import pytest
import tiny_models

import alignbeam
from schemas.tables import RESPONSES
from transforms.tables.write import write_tables

EXAMPLES = re.compile(r"^## (.+?)$.*?```python\n(.*?)```", re.MULTILINE | re.DOTALL)
SCRIPTED = {"engine": "scripted", "args": {"function": "tests.scripted_models:aligner"}}
SCORER = "scripted:tests.scripted_models:vowels"


@pytest.fixture
def examples(root) -> dict[str, str]:
    return dict(EXAMPLES.findall((root / "docs" / "library.md").read_text(encoding="utf-8")))


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with what the examples name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    lines = "".join(json.dumps({"question": question}) + "\n" for question in ("Why?", "How?", "When?"))
    (tmp_path / "data" / "more.jsonl").write_text(lines)
    return tmp_path


def printed(code: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, "example", "exec"), {"__name__": "example"})
    return out.getvalue()


def test_a_recipe_is_a_dictionary(examples, home):
    out = printed(examples["Run a recipe from a dictionary"])
    assert "('few', 'done', Rows(going_in=3, kept=2," in out


def test_a_stage_of_ones_own(examples, home):
    out = printed(examples["Add a stage kind of your own"])
    assert all(text in out for text in ("WHY??!", "HOW??!", "WHEN??!"))


def test_pairs_are_scored_and_aligned():
    pairs = [("Why?", "aaaa"), ("How?", "bbbb")]
    assert alignbeam.score(pairs, SCORER) == pytest.approx([1.0, 0.0])
    members = [{"criterion": "vowels", "inspector": SCORER, "aligner": "scripted"}]
    rows = alignbeam.align(pairs, members, engine=SCRIPTED).to_pylist()
    assert [row["question"] for row in rows] == ["Why?", "How?"]
    assert rows[0]["decision"] == "above_threshold"


def test_a_table_comes_as_arrow_polars_and_datasets(home):
    table = pa.Table.from_pylist([{"id": "a", "question": "Why?", "response": "So."}], RESPONSES)
    write_tables("data/table", {"responses": table}, {"stage": "own"}, 10)
    read = alignbeam.read("data/table")
    assert read.to_arrow().to_pylist() == read.to_polars().to_dicts() == read.to_datasets().to_list()


def test_a_name_that_there_is_not():
    with pytest.raises(AttributeError, match="no attribute 'sore'; it gives run, read, score"):
        alignbeam.sore  # noqa: B018


def test_importing_it_loads_nothing():
    heavy = ("pyarrow", "apache_beam", "torch", "pipelines")
    code = f"import sys, alignbeam; print([name for name in sys.modules if name.split('.')[0] in {heavy}])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


@pytest.mark.slow
def test_the_examples_with_models(examples, home, teacher):
    tiny_models.classifier(home / "models" / "inspector")
    (home / "models" / "aligner").symlink_to(teacher)
    out = printed(examples["Score and align a list of pairs"])
    assert "scores_before" in out
    alignbeam.run(
        {"name": "q", "steps": {"q": {"stage": "import", "corpus": "data/more.jsonl", "kind": "questions"}}}, "data/run"
    )
    (home / "data" / "questions").symlink_to(home / alignbeam.read("data/run", step="q").path)
    assert "completion" in printed(examples["Use the transforms in a pipeline of your own"])
