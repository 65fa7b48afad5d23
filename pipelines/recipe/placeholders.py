"""Placeholders of recipes: `{name}` in a text stands for the value of that name, where there is one.

A text that is one placeholder becomes the value, whatever its type. What a placeholder brings counts as written by a
file, even where the user typed it: the text that asks for it may stand where no file may say such a thing.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from schemas.errors import UsageError
from schemas.recipe import Path, Problem, Written

PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
MAX_SIZE = 20_000_000  # placeholders of placeholders can make texts of any size of a few lines
OF_A_VALUE = 100  # characters as which a value counts beside its text


@dataclass
class Placeholders:
    """Fill texts; note what cannot be filled. used: the names that some text had."""

    problems: list[Problem]
    used: set[str] = field(default_factory=set)
    size: int = 0

    def fill(self, written: Written, values: Mapping[str, Written], path: Path) -> Written:
        """Return what is written at a path with its placeholders replaced; UsageError where that never ends."""
        self.add(written, OF_A_VALUE)
        if isinstance(written.value, dict):
            items = {key: self.fill(item, values, (*path, key)) for key, item in written.value.items()}
            return replace(written, value=items)
        if isinstance(written.value, list):
            parts = [self.fill(item, values, (*path, str(index))) for index, item in enumerate(written.value)]
            return replace(written, value=parts)
        text = written.value
        if not isinstance(text, str) or not (names := values.keys() & set(PLACEHOLDER.findall(text))):
            return written
        self.used |= names
        first = PLACEHOLDER.match(text)
        start = values.get(first[1]) if first else None
        filled = replace(written, place=replace(written.place, typed=False))
        if start:
            filled = replace(filled, origin=start.origin or start.place)
            if first and first.end() == len(text):
                return replace(filled, value=self.untyped(start).value)

        def text_of(match: re.Match) -> str:
            value = values[match[1]].value if match[1] in values else match[0]
            if isinstance(value, dict | list):
                message = f"{match[0]} is a {'list' if isinstance(value, list) else 'mapping'}; it must stand alone"
                self.problems.append(Problem(written.place, ".".join(path), message))
            shown = value if isinstance(value, str) else json.dumps(value, default=str)
            self.add(written, len(shown))
            return shown

        return replace(filled, value=PLACEHOLDER.sub(text_of, text))

    def untyped(self, written: Written) -> Written:
        self.add(written, OF_A_VALUE)
        value = written.value
        if isinstance(value, dict):
            value = {key: self.untyped(item) for key, item in value.items()}
        elif isinstance(value, list):
            value = [self.untyped(item) for item in value]
        return replace(written, value=value, place=replace(written.place, typed=False))

    def add(self, written: Written, size: int) -> None:
        self.size += size
        if self.size > MAX_SIZE:
            raise UsageError(f"{written.place}: placeholders and groups make too much of this recipe; say less by them")
