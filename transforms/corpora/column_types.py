"""The Arrow types of columns whose values come as JSON, or from several files.

Values that have no common type become JSON texts: so do integers and fractions together, once one of the integers is
so large that no float64 says it exactly.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

EXACT_IN_FLOAT = 1 << 53  # up to here a float64 says every integer


@dataclass(frozen=True)
class ColumnTypes:
    """Types by column. `wide` names numbers that a float64 may not say, by their path: a column, then fields."""

    types: dict[str, pa.DataType] = field(default_factory=dict)
    wide: frozenset[tuple[str, ...]] = frozenset()

    def merge(self, more: "ColumnTypes") -> "ColumnTypes":
        """Return the types that hold the values of both."""
        wide = self.wide | more.wide
        types = dict(self.types)
        for name, type in more.types.items():
            before = types.get(name, type)
            types[name] = type if before.equals(type) else _common_type(name, before, type, wide)
        return ColumnTypes(types, wide)


def types_of_values(records: list[dict[str, Any]]) -> ColumnTypes:
    """Return the types of the columns of JSON objects, in the order of their names."""
    types, wide = {}, set()
    for name in sorted({name for record in records for name in record}):
        try:
            values = pa.array([record.get(name) for record in records])
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
            types[name] = pa.string()
            continue
        types[name] = values.type
        for path, leaf in _leaves(values, (name,)):
            if pa.types.is_integer(leaf.type) and pc.any(pc.greater(pc.abs(leaf), EXACT_IN_FLOAT)).as_py():
                wide.add(path)
    return ColumnTypes(types, frozenset(wide))


def types_of_schema(schema: pa.Schema) -> ColumnTypes:
    """Return the types of a file that declares them: what it may hold counts as held."""
    wide = {
        path
        for column in schema
        for path, leaf in _leaves(pa.nulls(0, column.type), (column.name,))
        if pa.types.is_int64(leaf.type) or pa.types.is_uint64(leaf.type) or pa.types.is_decimal(leaf.type)
    }
    return ColumnTypes({column.name: column.type for column in schema}, frozenset(wide))


def has_empty_object(type: pa.DataType) -> bool:
    """Return whether a type is or holds an object without fields, which Parquet cannot store."""
    return any(pa.types.is_struct(leaf.type) for _, leaf in _leaves(pa.nulls(0, type), ()))


def _common_type(
    name: str, one_type: pa.DataType, next_type: pa.DataType, wide: frozenset[tuple[str, ...]]
) -> pa.DataType:
    try:
        schemas = [pa.schema([(name, one_type)]), pa.schema([(name, next_type)])]
        type = pa.unify_schemas(schemas, promote_options="permissive").field(name).type
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return pa.string()
    leaves = _leaves(pa.nulls(0, type), (name,))
    return pa.string() if any(path in wide and pa.types.is_floating(leaf.type) for path, leaf in leaves) else type


def _leaves(values: pa.Array, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], pa.Array]]:
    """Yield what lies innermost in lists and objects, with its path.

    An object without fields lies innermost.
    """
    # a: [{x: 1, y: [2]}] → (a, "", x): 1 and (a, "", y, ""): 2
    if pa.types.is_struct(values.type) and values.type.num_fields:
        for index, part in enumerate(values.type):
            yield from _leaves(values.field(index), (*path, part.name))
    elif pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        yield from _leaves(values.flatten(), (*path, ""))
    else:
        yield path, values
