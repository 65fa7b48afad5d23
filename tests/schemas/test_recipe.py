"""YAML with a place for every value, and what is wrong with it."""

import pytest

from schemas.errors import UsageError
from schemas.recipe import Place, Problem, near, place_of, read_yaml_with_places, written


def read(tmp_path, text: str):
    """Return the plain values, the line of each path, and the problems as (line, key, message)."""
    path = tmp_path / "r.yaml"
    path.write_text(text, encoding="utf-8")
    problems = []
    value = read_yaml_with_places(str(path), problems)
    lines = {".".join(path): item.place.line for path, item in value.below()}
    return value.plain(), lines, [(item.place.line, item.key, item.message) for item in problems]


def test_places_and_problems_read_as_people_write_them():
    assert str(Place("mine.yaml", 12)) == "mine.yaml:12"
    assert str(Place("--set steps.a.count=3", typed=True)) == "--set steps.a.count=3"
    assert str(Problem(Place("mine.yaml", 12), "steps.a", "no")) == "mine.yaml:12: steps.a: no"
    assert str(Problem(None, "", "no")) == "no"


def test_the_place_of_what_is_not_written_is_that_of_what_holds_it():
    places = {("steps",): Place("r", 3), ("steps", "a"): Place("r", 4)}
    assert place_of(places, ("steps", "a", "count", "x")) == Place("r", 4)
    assert place_of(places, ("steps", "b")) == Place("r", 3)
    assert place_of(places, ("models",)) is None
    assert place_of({(): Place("r", 1)}, ("models",)) == Place("r", 1)


def test_a_name_that_is_none_of_these():
    assert near("question", ["questions", "triples"]) == "did you mean 'questions'?"
    assert near("x", ["one", "two"]) == "there are one, two"
    assert near("x", []) == "there are none"
    assert near("zz", [f"n{number}" for number in range(21)]).endswith("n18, n19, …")


def test_every_value_has_the_line_of_its_key(tmp_path):
    values, lines, problems = read(tmp_path, "a:\n  b: 1\n  c:\n    - x\n    - {d: true}\ne: 1.5\nf: ~\n")
    assert values == {"a": {"b": 1, "c": ["x", {"d": True}]}, "e": 1.5, "f": None}
    assert lines == {"": 1, "a": 1, "a.b": 2, "a.c": 3, "a.c.0": 4, "a.c.1": 5, "a.c.1.d": 5, "e": 6, "f": 7}
    assert problems == []


def test_an_anchors_values_stand_where_they_are_written_and_its_copy_where_it_is_named(tmp_path):
    values, lines, problems = read(tmp_path, "a: &a\n  x: 1\n  y: 2\nb:\n  <<: *a\n  y: 3\nc: *a\n")
    assert values == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 1, "y": 2}}
    assert list(values["b"]) == ["x", "y"]
    assert (lines["b.x"], lines["b.y"], lines["c"], lines["c.x"], problems) == (2, 6, 7, 2, [])


def test_of_several_merged_mappings_the_first_wins_and_they_may_merge_too(tmp_path):
    text = "a: &a {x: 1}\nb: &b {<<: *a, x: 2, y: 2}\nc: &c {x: 3, z: 3}\nd: {<<: [*b, *c]}\n"
    values, lines, _ = read(tmp_path, text)
    assert values["d"] == {"x": 2, "y": 2, "z": 3}
    assert lines["d.z"] == 3


def test_two_of_one_name_are_a_problem_with_both_lines(tmp_path):
    values, _, problems = read(tmp_path, "steps:\n  a: {b: 1}\n  1: x\n  a: {b: 2}\n  '1': y\n")
    assert values == {"steps": {"a": {"b": 1}, "1": "x"}}
    message = "is in line {} already; rename or remove one of the two"
    assert problems == [(4, "steps.a", message.format(2)), (5, "steps.1", message.format(3))]


def test_a_mistake_behind_an_anchor_is_said_once(tmp_path):
    _, _, problems = read(tmp_path, "a: &a\n  x: 1\n  x: 2\nb: *a\nc: {<<: *a}\n")
    assert [line for line, _, _ in problems] == [3]


def test_whole_numbers_are_names_and_nothing_else_but_texts_is(tmp_path):
    values, _, problems = read(tmp_path, "a: {1: x, 010: y}\nb: {yes: 1, c: 2}\n1.5: x\n? [d]\n: 1\n")
    assert values == {"a": {"1": "x", "010": "y"}, "b": {"c": 2}}
    assert problems == [
        (3, "", "'1.5' is no text where a name is due; put it in quotes"),
        (4, "", "a list or mapping is no text where a name is due; put it in quotes"),
        (2, "b", "'yes' is no text where a name is due; put it in quotes"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2026-01-02", "timestamp is no plain value; put a text in quotes"),
        ("!!binary YQ==", "binary is no plain value; put a text in quotes"),
        ("!!set {x}", "set is no plain value; put a text in quotes"),
        ("!!omap [x: 1]", "omap is no plain value; put a text in quotes"),
        ("!!python/name:os.system x", "python/name:os.system is no plain value; put a text in quotes"),
        ("!!python/object/apply:a.b [x]", "python/object/apply:a.b is no plain value; put a text in quotes"),
        ("!!int x", "'x' cannot be read as int; put a text in quotes"),
        ("!!bool x", "'x' cannot be read as bool; put a text in quotes"),
        ("!!int ''", "'' cannot be read as int; put a text in quotes"),
        ("!!str {b: 1}", "str is no plain value; put a text in quotes"),
    ],
)
def test_only_plain_data_is_read(tmp_path, text, message):
    assert read(tmp_path, f"x: 1\na: {text}\n") == ({"x": 1, "a": None}, {"": 1, "x": 1, "a": 2}, [(2, "a", message)])


def test_only_mappings_are_merged_in(tmp_path):
    values, _, problems = read(tmp_path, "a: {<<: 3, b: 1}\n")
    assert values == {"a": {"b": 1}}
    assert problems == [(1, "a", "<< takes a mapping, or a list of mappings")]


def test_an_empty_file_is_nothing(tmp_path):
    assert read(tmp_path, "# nothing\n") == (None, {"": 1}, [])


DOUBLED = "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 19))])
MERGED = "\n".join(["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 19))])
EMPTY = "\n".join(["e: &e {}", f"f: &f {{<<: [{'*e, ' * 2000}]}}", f"g: {{<<: [{'*f, ' * 2000}]}}"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a {b: *a}", ":1: nested more than 20 levels deep"),
        ("a: &a [*a]", ":1: nested more than 20 levels deep"),
        ("a: &a {<<: *a}", ":1: nested more than 20 levels deep"),
        ("a: " + "[" * 21 + "]" * 21, ":1: nested more than 20 levels deep"),
        (DOUBLED, "more than 100,000 values, with all that anchors repeat"),
        (MERGED, "more than 100,000 values, with all that anchors repeat"),
        (EMPTY, "more than 100,000 values, with all that anchors repeat"),
        ("[" * 5000, "cannot be read"),
        ("a: [", "not YAML"),
        ("a: 1\n---\nb: 1\n", "not YAML"),
    ],
)
def test_what_never_ends_or_is_no_yaml_is_refused(tmp_path, text, message):
    with pytest.raises(UsageError, match=message) as error:
        read(tmp_path, text)
    assert str(error.value).startswith(str(tmp_path / "r.yaml"))


def test_nineteen_levels_below_a_key_are_fine(tmp_path):
    assert read(tmp_path, "a: " + "[" * 20 + "]" * 20)[2] == []


def test_files_that_cannot_be_read_say_why(tmp_path):
    with pytest.raises(UsageError, match=r"gone.yaml: no such file"):
        read_yaml_with_places(str(tmp_path / "gone.yaml"), [])
    (tmp_path / "latin.yaml").write_bytes("a: é".encode("latin-1"))
    with pytest.raises(UsageError, match=r"latin.yaml: not UTF-8"):
        read_yaml_with_places(str(tmp_path / "latin.yaml"), [])


def test_plain_data_has_one_place_and_texts_as_names():
    value = written({1: [{"a": (2,)}]}, place := Place("recipe"))
    assert value.plain() == {"1": [{"a": [2]}]}
    assert {item.place for _, item in value.below()} == {place}
    endless: dict = {}
    endless["a"] = endless
    with pytest.raises(UsageError, match=r"^recipe: a.a.a…: nested more than 20 levels deep"):
        written(endless, place)
