"""Reading one YAML file into dataclasses; everything that is wrong with it is noted, with line and field."""

from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import lru_cache
from typing import Annotated, Any, get_args

import fsspec
import yaml

Line = Annotated[str, "no line break"]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing wrong with a file; `level` is 'error' or 'warning', lines count from 1."""

    level: str
    file: str
    line: int
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.level}: {self.field + ': ' if self.field else ''}{self.message}"


@lru_cache(maxsize=16)
def composed(data: bytes) -> yaml.Node | None:
    """Return YAML's node of a file's bytes; a run reads its packs again and again."""
    return yaml.compose(data.decode("utf-8"), Loader=yaml.SafeLoader)


class Reader:
    """Read a file as far as it can be read; note what is wrong and go on.

    A dataclass is the schema: its texts, booleans, tuples and nested dataclasses are read by their annotations.
    check_text: says what is wrong with a text, beside what its annotation asks for. if_unreadable: what the error adds
    where the file cannot be opened. lines: on which line each field stands, such as `seeds[4].topic`.
    """

    def __init__(
        self, file: str, check_text: Callable[[str], Iterable[str]] = lambda text: (), if_unreadable: str = ""
    ):
        self.file = file
        self.check_text = check_text
        self.if_unreadable = if_unreadable
        self.lines: dict[str, int] = {}
        self.problems: list[Problem] = []

    def note(self, field: str, message: str, *, level: str = "error", line: int | None = None) -> None:
        """Note a problem of a field, on the field's line unless another is named."""
        line = self.lines.get(field, 1) if line is None else line
        self.problems.append(Problem(level=level, file=self.file, line=line, field=field, message=message))

    def fields_of(self, kind: type) -> dict[str, Any] | None:
        """Return the values of a dataclass's fields.

        In lists, None stands for an item that could not be read. The whole is None where the file cannot be read, is no
        YAML or holds no fields at all.
        """
        node = self._root()
        return None if node is None else self._mapping(node, "", kind)

    def _root(self) -> yaml.Node | None:
        try:
            with fsspec.open(self.file, "rb") as stream:
                data = stream.read()
            node = composed(data)
        except UnicodeDecodeError as error:
            self.note("", f"not UTF-8: {error.reason}", line=data.count(b"\n", 0, error.start) + 1)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            fault = getattr(error, "problem", None) or str(error).splitlines()[0]
            line = mark.line + 1 if mark else 1
            self.note("", f"not YAML: {fault} (put a text with punctuation in quotes)", line=line)
        except FileNotFoundError:
            self.note("", f"no such file{self.if_unreadable}")
        except (OSError, ValueError, ImportError) as error:
            self.note("", f"cannot be read: {error or type(error).__name__}{self.if_unreadable}")
        else:
            if node is not None:
                return node
            self.note("", "the file is empty")
        return None

    def _value(self, node: yaml.Node, field: str, kind: Any) -> Any:
        self.lines[field] = node.start_mark.line + 1
        if isinstance(kind, type) and is_dataclass(kind):
            values = self._mapping(node, field, kind) or {}
            required = {spec.name for spec in fields(kind) if spec.default is MISSING}
            is_whole = required <= values.keys() and None not in values.values()
            return kind(**values) if is_whole else None
        if kind is bool:
            if node.value in ("true", "false"):
                return node.value == "true"
            self.note(field, f"expected true or false, found {_shown(node)}")
            return None
        if kind is str or kind is Line:
            return self._text(node, field, one_line=kind is Line)
        if isinstance(node, yaml.SequenceNode):
            item = get_args(kind)[0]
            return tuple(self._value(child, f"{field}[{index}]", item) for index, child in enumerate(node.value))
        self.note(field, "expected a list")
        return None

    def _mapping(self, node: yaml.Node, field: str, kind: Any) -> dict[str, Any] | None:
        if not isinstance(node, yaml.MappingNode):
            self.note(field, f"expected the fields {', '.join(spec.name for spec in fields(kind))}")
            return None
        kinds = {spec.name: spec.type for spec in fields(kind)}
        prefix = f"{field}." if field else ""
        values: dict[str, Any] = {}
        for key, child in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name not in kinds:
                self.note(prefix + name, f"unknown field; known are {', '.join(kinds)}", line=line)
            elif name in values:
                self.note(prefix + name, "given twice", line=line)
            else:
                values[name] = self._value(child, prefix + name, kinds[name])
        for spec in fields(kind):
            if spec.name not in values and spec.default is MISSING:
                self.note(prefix + spec.name, "missing", line=node.start_mark.line + 1)
        return values

    def _text(self, node: yaml.Node, field: str, *, one_line: bool) -> str | None:
        if node.tag != "tag:yaml.org,2002:str":
            self.note(field, f"expected text, found {_shown(node)} (put it in quotes if it is meant as text)")
            return None
        text = node.value.strip()
        if not text:
            self.note(field, "empty")
        for message in self.check_text(text):
            self.note(field, message)
        if one_line and "\n" in text:
            self.note(field, "must be one line")
        return text


def _shown(node: yaml.Node) -> str:
    return repr(node.value) if isinstance(node, yaml.ScalarNode) else "a list or fields"
