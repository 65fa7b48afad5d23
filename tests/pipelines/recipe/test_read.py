"""A recipe over what it extends, and under what is typed."""

import pytest

from pipelines.recipe import read
from pipelines.recipe.read import beside, merged, read_recipe, recipe_names, with_settings
from schemas.errors import UsageError
from schemas.recipe import Place, place_of, written


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Write files by name into the working directory; bundled recipes lie in `bundled`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundled").mkdir()
    monkeypatch.setattr(read, "RECIPES", tmp_path / "bundled")

    def write(**texts):
        for name, text in texts.items():
            path = tmp_path / f"{name.replace('__', '/')}.yaml"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    return write


def plain(recipe, *typed):
    problems = []
    values = read_recipe(recipe, problems)
    for number, settings in enumerate(typed, 1):
        values = with_settings(values, settings, f"--set {number}", problems)
    assert problems == []
    return values.plain()


def problems_of(recipe, *typed):
    problems = []
    values = read_recipe(recipe, problems)
    for settings in typed:
        values = with_settings(values, settings, "--set x=1", problems)
    return list(map(str, problems))


BASE = """
name: base
seed: 1
values: {pack: base.yaml}
models:
  teacher: {model: big, args: {dtype: float32}}
  judge: {model: other}
steps:
  ask: {stage: questions, model: teacher, count: 10, sampling: {max_tokens: 5, stop: [a, b]}}
  answer: {stage: respond, questions: ask, model: teacher}
"""


def test_mappings_merge_lists_and_scalars_replace_and_null_removes(files):
    files(
        base=BASE, mine="extends: base.yaml\nname: mine\nsteps: {ask: {count: 20, sampling: {stop: [c]}}, answer: null}"
    )
    assert plain("mine.yaml") == {
        "name": "mine",
        "seed": 1,
        "values": {"pack": "base.yaml"},
        "models": {"teacher": {"model": "big", "args": {"dtype": "float32"}}, "judge": {"model": "other"}},
        "steps": {
            "ask": {"stage": "questions", "model": "teacher", "count": 20, "sampling": {"max_tokens": 5, "stop": ["c"]}}
        },
    }


def test_an_entry_of_models_replaces_whole(files):
    files(base=BASE, mine="extends: base.yaml\nmodels: {teacher: {model: small}, judge: null}")
    assert plain("mine.yaml")["models"] == {"teacher": {"model": "small"}}


def test_a_step_of_another_kind_replaces_whole_and_one_of_the_same_kind_merges(files):
    steps = "{ask: {stage: import, corpus: q}, answer: {stage: respond, draws: 2}}"
    files(base=BASE, mine=f"extends: base.yaml\nsteps: {steps}")
    assert plain("mine.yaml")["steps"] == {
        "ask": {"stage": "import", "corpus": "q"},
        "answer": {"stage": "respond", "questions": "ask", "model": "teacher", "draws": 2},
    }


def test_a_step_inside_a_group_and_a_group_in_place_of_a_step_follow_the_same_rule(files):
    base = "steps: {g: {each: {c: [a]}, steps: {ask: {stage: questions, count: 1}}}, one: {stage: curate, table: x}}"
    mine = (
        "extends: base.yaml\nsteps: {g: {steps: {ask: {stage: import, corpus: q}}}, one: {each: {d: [b]}, steps: {}}}"
    )
    files(base=base, mine=mine)
    assert plain("mine.yaml")["steps"] == {
        "g": {"each": {"c": ["a"]}, "steps": {"ask": {"stage": "import", "corpus": "q"}}},
        "one": {"each": {"d": ["b"]}, "steps": {}},
    }


def test_chains_and_bundled_names_and_files_beside_the_one_that_says_it(files):
    files(
        bundled__flow=BASE,
        deep__middle="extends: flow\nseed: 2\nname: middle",
        mine="extends: deep/middle.yaml\nname: m",
    )
    files(deep__inner="extends: ../mine.yaml\ntoy: true")
    assert recipe_names() == ["flow"]
    values = plain("deep/inner.yaml")
    assert (values["name"], values["seed"], values["toy"], list(values["steps"])) == ("m", 2, True, ["ask", "answer"])
    assert plain("flow")["name"] == "base"
    assert plain({"extends": "flow", "name": "dict"})["name"] == "dict"


def test_values_keep_the_place_where_they_are_written(files):
    files(base=BASE, mine="extends: base.yaml\nsteps:\n  ask:\n    count: 20\n")
    recipe = with_settings(
        read_recipe("mine.yaml", []), {"steps": {"ask": {"count": 3}}}, "--set steps.ask.count=3", []
    )
    places = {path: item.place for path, item in recipe.below()}
    assert str(place_of(places, ("steps", "ask", "count"))) == "--set steps.ask.count=3"
    assert places["steps", "ask", "count"].typed
    assert str(place_of(places, ("steps", "ask", "model"))) == "base.yaml:9"
    recipe = read_recipe("mine.yaml", [])
    assert str(dict(recipe.below())["steps", "ask", "count"].place) == "mine.yaml:4"
    assert read_recipe({"name": "x"}, []).place == Place("recipe")


@pytest.mark.parametrize("name", ["a.yaml", "./a.yaml"])
def test_a_circle_is_printed_as_the_files_around_it(files, name):
    files(start="extends: a.yaml", a="extends: ./b.yaml", b=f"extends: {name}")
    with pytest.raises(UsageError) as error:
        read_recipe("start.yaml", [])
    assert str(error.value) == "b.yaml:1: extends: a circle: a.yaml → b.yaml → a.yaml"


def test_a_circle_through_a_link_ends_too(files, tmp_path):
    files(a="extends: link/a.yaml")
    (tmp_path / "link").symlink_to(".")
    with pytest.raises(UsageError, match="extends: a circle: a.yaml → link/a.yaml → link/link/a.yaml"):
        read_recipe("a.yaml", [])


def test_a_recipe_that_is_not_there(files):
    files(bundled__one_criterion=BASE, mine="name: m\nextends: one_criterio", bad="extends: [a]", broken="a: [")
    with pytest.raises(UsageError) as error:
        read_recipe("mine.yaml", [])
    hint = "no such file, and no recipe that comes along; did you mean 'one_criterion'?"
    assert str(error.value) == f"mine.yaml:2: extends: one_criterio: {hint}"
    with pytest.raises(
        UsageError, match=r"^gone: no such file, and no recipe that comes along; there are one_criterion"
    ):
        read_recipe("gone", [])
    with pytest.raises(UsageError, match="not YAML") as error:
        read_recipe("broken.yaml", [])
    assert "comes along" not in str(error.value)
    assert problems_of("bad.yaml") == ["bad.yaml:1: extends: expected a bundled recipe's name or a file"]


def test_unknown_keys_are_problems_of_the_file_that_has_them(files):
    assert problems_of({"name": "n"}, {"stages": {}}) == ["--set x=1: stages: unknown; did you mean 'steps'?"]
    files(base="name: b\nmodel: {}\n", mine="extends: base.yaml\nstep: {}\nstages: {}\n", list="- a")
    assert problems_of("mine.yaml", {"stages": {}, "extends": "x"}) == [
        "mine.yaml:2: step: unknown; did you mean 'steps'?",
        "mine.yaml:3: stages: unknown; did you mean 'steps'?",
        "base.yaml:2: model: unknown; did you mean 'models'?",
        "--set x=1: stages: unknown; did you mean 'steps'?",
        "--set x=1: extends: is for files; give the recipe that extends another",
    ]
    assert problems_of("list.yaml") == ["list.yaml:1: expected a recipe: name, models, steps"]


def test_what_is_typed_merges_also_into_models_and_steps_of_another_kind(files):
    files(base=BASE)
    typed = {"models": {"teacher": {"args": {"dtype": "bfloat16"}}}, "steps": {"civic/ask": {"count": 5}}}
    values = plain("base.yaml", typed, {"steps": {"ask": {"sampling": None, "stage": "import"}}, "seed": 9})
    assert values["models"]["teacher"] == {"model": "big", "args": {"dtype": "bfloat16"}}
    assert values["steps"]["civic/ask"] == {"count": 5}
    assert values["steps"]["ask"] == {"stage": "import", "model": "teacher", "count": 10}
    assert values["seed"] == 9


def test_null_over_nothing_stays_a_value():
    below, above = written({"a": 1}, Place("b")), written({"a": {"x": None}, "b": None}, Place("a"))
    assert merged(below, above).plain() == {"a": {"x": None}, "b": None}


def test_an_old_recipe_is_named_as_such_with_its_new_form(files):
    files(old="name: o\ncriterion: ethical\nstages: {questions: {count: 5}}", mine="extends: old.yaml")
    for name in ("old.yaml", "mine.yaml"):
        with pytest.raises(UsageError) as error:
            read_recipe(name, [])
        text = str(error.value)
        assert text.startswith(
            "old.yaml: has the form of before, with criterion, stages. A recipe names its steps now; "
        )
        assert "name: o\n" in text
        assert "count: 5" in text


@pytest.mark.parametrize(
    ("path", "source", "whole"),
    [
        ("a.yaml", "dir/r.yaml", "dir/a.yaml"),
        ("../a.yaml", "dir/r.yaml", "a.yaml"),
        ("a.yaml", "r.yaml", "a.yaml"),
        ("a.yaml", "", "a.yaml"),
        ("/x/a.yaml", "dir/r.yaml", "/x/a.yaml"),
        ("~/a.yaml", "dir/r.yaml", "~/a.yaml"),
        ("s3://b/a.yaml", "dir/r.yaml", "s3://b/a.yaml"),
        ("a.yaml", "https://host/dir/r.yaml?sig=x/y", "https://host/dir/a.yaml"),
    ],
)
def test_a_relative_path_lies_beside_its_file(path, source, whole):
    assert beside(path, source) == whole
