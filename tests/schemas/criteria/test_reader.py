"""One YAML file into dataclasses of any kind, or everything that is wrong with it."""

from dataclasses import dataclass

from schemas.criteria.reader import Line, Reader


@dataclass(frozen=True, kw_only=True)
class Tool:
    name: Line
    use: str
    sharp: bool = False


@dataclass(frozen=True, kw_only=True)
class Drawer:
    label: Line
    tools: tuple[Tool, ...]


def read(tmp_path, text, **settings):
    path = tmp_path / "drawer.yaml"
    path.write_text(text, encoding="utf-8")
    reader = Reader(str(path), **settings)
    return reader.fields_of(Drawer), [(problem.line, problem.field, problem.message) for problem in reader.problems]


def test_a_file_is_read_by_the_annotations_of_a_dataclass(tmp_path):
    text = "label: top\ntools:\n  - {name: knife, use: ' to cut ', sharp: true}\n  - {name: fork, use: to hold}\n"
    parts, problems = read(tmp_path, text)
    tools = (Tool(name="knife", use="to cut", sharp=True), Tool(name="fork", use="to hold"))
    assert (parts, problems) == ({"label": "top", "tools": tools}, [])


def test_what_is_wrong_is_noted_and_the_rest_is_read(tmp_path):
    text = "label: 3\ntools:\n  - {name: knife}\n  - {name: fork, use: to hold}\n"
    parts, problems = read(tmp_path, text)
    assert parts == {"label": None, "tools": (None, Tool(name="fork", use="to hold"))}
    assert problems == [
        (1, "label", "expected text, found '3' (put it in quotes if it is meant as text)"),
        (3, "tools[0].use", "missing"),
    ]


def test_what_the_caller_minds_in_a_text_is_noted_with_its_line(tmp_path):
    text = "label: top\ntools:\n  - {name: fork, use: to hold}\n"
    _, problems = read(tmp_path, text, check_text=lambda text: ["no holding"] if "hold" in text else [])
    assert problems == [(3, "tools[0].use", "no holding")]


def test_a_file_that_is_not_there_says_what_the_caller_adds(tmp_path):
    reader = Reader(str(tmp_path / "gone.yaml"), if_unreadable="; try the kitchen")
    assert reader.fields_of(Drawer) is None
    assert reader.problems[0].message.endswith("; try the kitchen")
