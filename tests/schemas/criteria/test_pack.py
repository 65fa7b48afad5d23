"""Criterion packs: the bundled ones are clean, and a broken one is told everything that is wrong with it at once."""

from dataclasses import fields
from pathlib import Path

import fsspec
import pytest

from schemas.criteria.pack import (
    Demonstration,
    Pack,
    Principle,
    Seed,
    check_pack,
    cited_principles,
    load_pack,
    pack_digest,
    pack_names,
)
from schemas.errors import UsageError

SMALL = """\
name: terse
role: Editor
task: You shorten.
principles:
  - {name: short, text: A response is short.}
  - {name: kind, text: A response is kind.}
failure: too long
demonstrations:
  - question: What is a fork?
    response: A fork is a fork and what a fork is is a fork.
    critique: It breaks principle 1 (short).
    correction: A tool to eat with.
  - question: And a spoon?
    response: A tool to eat soup with.
    critique: All is well.
    correction: A tool to eat soup with.
    identity: true
seeds:
  - {topic: Forks, question_type: tools, question: "What is a fork?"}
  - {topic: Knives, question_type: tools, question: "What is a knife?"}
  - {topic: Bees, question_type: animals, question: "What is a bee?"}
  - {topic: Ants, question_type: animals, question: "What is an ant?"}
  - {topic: Rain, question_type: weather, question: "What is rain?"}
"""


def found(tmp_path: Path, text: str, level: str = "error") -> list[tuple[int, str, str]]:
    """(line, field, message) of the problems of a pack with that text."""
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return [(p.line, p.field, p.message) for p in check_pack(str(path)) if p.level == level]


def test_the_bundled_packs_have_neither_errors_nor_warnings():
    assert pack_names() == ["ethical", "factual", "helpful"]
    for name in pack_names():
        assert check_pack(name) == []
        pack = load_pack(name)
        assert pack.name == name
        assert len(pack.demonstrations) >= 5
        assert sum(demonstration.identity for demonstration in pack.demonstrations) == 1
        assert len({seed.question_type for seed in pack.seeds}) == len(pack.seeds) == 20


def test_every_faulty_bundled_demonstration_cites_by_number_and_name():
    for pack in map(load_pack, pack_names()):
        cited = set()
        for demonstration in pack.demonstrations:
            if not demonstration.identity:
                here = cited_principles(demonstration.critique, pack.principles)
                assert here
                assert all(pack.principles[number - 1].name == name for number, name in here)
                cited |= {number for number, _ in here}
        assert cited == set(range(1, len(pack.principles) + 1)), "every principle is shown broken once"


def test_a_pack_is_read_from_a_path(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(SMALL, encoding="utf-8")
    pack = load_pack(str(path))
    assert pack.principles == (
        Principle(name="short", text="A response is short."),
        Principle(name="kind", text="A response is kind."),
    )
    assert pack.demonstrations[1] == Demonstration(
        question="And a spoon?",
        response="A tool to eat soup with.",
        critique="All is well.",
        correction="A tool to eat soup with.",
        identity=True,
    )
    assert pack.seeds[4] == Seed(topic="Rain", question_type="weather", question="What is rain?")
    assert pack.banned_words == ()


def test_a_pack_is_read_through_fsspec():
    with fsspec.open("memory://packs/mine.yaml", "w") as stream:
        stream.write(SMALL)
    assert load_pack("memory://packs/mine.yaml").name == "terse"


def test_less_than_the_papers_setting_is_a_warning(tmp_path):
    assert found(tmp_path, SMALL) == []
    assert found(tmp_path, SMALL, "warning") == [
        (9, "demonstrations", "2 given, 5 recommended"),
        (19, "seeds", "5 given, 20 recommended"),
        (19, "seeds", "3 question types, 20 recommended"),
    ]


def edited(old: str, new: str) -> str:
    assert SMALL.count(old) == 1
    return SMALL.replace(old, new)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (edited("role: Editor\n", ""), (1, "role", "missing")),
        (edited("name: terse", "name: Terse pack"), (1, "name", "names columns and folders")),
        (edited("failure: too long", "failure: too long\ncolour: red"), (8, "colour", "unknown field; known are name")),
        (edited("failure: too long", "failure: too long\nfailure: x"), (8, "failure", "given twice")),
        (edited("failure: too long", "failure: 7"), (7, "failure", "expected text, found '7'")),
        (edited("failure: too long", "failure: [a]"), (7, "failure", "expected text, found a list or fields")),
        (edited("failure: too long", "failure: ' '"), (7, "failure", "empty")),
        (edited("role: Editor", 'role: "a\\nb"'), (2, "role", "must be one line")),
        (edited("role: Editor", "role: 'An {{ x }} b'"), (2, "role", "unknown placeholder '{{ x }}'")),
        (edited("role: Editor", "role: 'An {% if a %} b'"), (2, "role", "unknown placeholder '{% if a %}'")),
        (edited("task: You shorten.", 'task: "You\\nInput: no"'), (3, "task", "a line begins with 'Input:'")),
        (edited("identity: true", "identity: yes please"), (17, "demonstrations[1].identity", "expected true")),
        (edited("All is well.", "It breaks principle 9 (short)."), (15, "demonstrations[1].critique", "there are 2")),
        (edited("1 (short).", "1 (kind)."), (11, "demonstrations[0].critique", "which is named 'short'")),
        (edited("principle 1 (short).", "rule 1 (kind)."), (11, "demonstrations[0].critique", "is named 'short'")),
        (edited("name: kind", "name: Short"), (6, "principles[1].name", "repeats principles[0].name")),
        (edited("What is rain?", "what is  an ANT?"), (23, "seeds[4].question", "repeats seeds[3].question")),
        (
            edited("    correction: A tool to eat soup with.", "    correction: Other."),
            (16, "demonstrations[1].correction", "differs from the response although identity is true"),
        ),
        (
            edited("    identity: true\n", ""),
            (16, "demonstrations[1].correction", "equals the response: change it or set identity: true"),
        ),
        (edited('- {topic: Rain, question_type: weather, question: "What is rain?"}', ""), (19, "seeds", "4 given")),
        (edited("role: Editor", "role: it: is"), (2, "", "not YAML")),
        ("", (1, "", "the file is empty")),
        ("- a\n- b\n", (1, "", "expected the fields name, role")),
        (edited("{name: kind, text: A response is kind.}", "kind"), (6, "principles[1]", "expected the fields name")),
    ],
)
def test_each_mistake_is_named_with_line_and_field(tmp_path, text, problem):
    problems = found(tmp_path, text)
    assert any((line, field) == problem[:2] and problem[2] in message for line, field, message in problems), problems


def test_all_mistakes_come_in_one_error_in_the_order_of_lines(tmp_path):
    path = tmp_path / "mine.yaml"
    text = edited("role: Editor", "rolle: Editor").replace("A tool to eat with.", "'{{ tool }}'").replace("Rain", "''")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        load_pack(str(path))
    message = str(caught.value)
    assert "has 4 error(s)" in message
    assert [line.removeprefix(f"{path}:").split(": error: ") for line in message.splitlines()[1:]] == [
        ["1", "role: missing"],
        ["2", f"rolle: unknown field; known are {', '.join(spec.name for spec in fields(Pack))}"],
        ["12", "demonstrations[0].correction: unknown placeholder '{{ tool }}': a pack holds literal text only"],
        ["23", "seeds[4].topic: empty"],
    ]


def test_invalid_utf8_is_named_with_its_line(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"name: terse\nrole: \xff\n")
    assert [(p.line, p.message) for p in check_pack(str(path))] == [(2, "not UTF-8: invalid start byte")]


@pytest.mark.parametrize("name", ["nope", "nowhere://x/mine.yaml", "/"])
def test_an_unreadable_pack_names_the_bundled_ones(name):
    with pytest.raises(UsageError, match="bundled packs: ethical, factual, helpful"):
        load_pack(name)


def test_citations_in_one_sentence_are_all_seen():
    principles = (Principle(name="short", text="a"), Principle(name="kind", text="b"))
    text = "In 1990 (the year) it broke principles 1 (short), 2 (kind) and 3. Siehe 2 (kind)."
    assert cited_principles(text, principles) == [(1, "short"), (2, "kind"), (3, None), (2, "kind")]


def test_the_digest_covers_what_a_stage_names(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(SMALL, encoding="utf-8")
    pack = load_pack(str(path))
    path.write_text(edited("A tool to eat with.", "Cutlery."), encoding="utf-8")
    changed = load_pack(str(path))
    assert pack_digest(pack) != pack_digest(changed)
    assert pack_digest(pack, "seeds", "failure") == pack_digest(changed, "seeds", "failure")
    assert len(pack_digest(pack)) == 32
