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
    """Types by column. `wide` names the places of numbers that a float64 may not say: a column, then fields."""

    types: dict[str, pa.DataType] = field(default_factory=dict)
    wide: frozenset[tuple[str, ...]] = frozenset()

    def merge(self, other: "ColumnTypes") -> "ColumnTypes":
        """The types that hold the values of both."""
        wide = self.wide | other.wide
        types = dict(self.types)
        for name, found in other.types.items():
            known = types.get(name, found)
            types[name] = found if known.equals(found) else _common_type(name, known, found, wide)
        return ColumnTypes(types, wide)


def types_of_values(records: list[dict[str, Any]]) -> ColumnTypes:
    """The types of the columns of JSON objects, in the order of their names."""
    types, wide = {}, set()
    for name in sorted({name for record in records for name in record}):
        try:
            values = pa.array([record.get(name) for record in records])
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
            types[name] = pa.string()
            continue
        types[name] = values.type
        for place, leaf in _leaves(values, (name,)):
            if pa.types.is_integer(leaf.type) and pc.any(pc.greater(pc.abs(leaf), EXACT_IN_FLOAT)).as_py():
                wide.add(place)
    return ColumnTypes(types, frozenset(wide))


def types_of_schema(schema: pa.Schema) -> ColumnTypes:
    """The types of a file that declares them: what it may hold counts as held."""
    wide = {
        place
        for column in schema
        for place, leaf in _leaves(pa.nulls(0, column.type), (column.name,))
        if pa.types.is_int64(leaf.type) or pa.types.is_uint64(leaf.type) or pa.types.is_decimal(leaf.type)
    }
    return ColumnTypes({column.name: column.type for column in schema}, frozenset(wide))


def has_empty_object(type: pa.DataType) -> bool:
    """Whether a type is or holds an object that never has a field: Parquet cannot store one."""
    return any(pa.types.is_struct(leaf.type) for _, leaf in _leaves(pa.nulls(0, type), ()))


def _common_type(name: str, known: pa.DataType, found: pa.DataType, wide: frozenset[tuple[str, ...]]) -> pa.DataType:
    try:
        schemas = [pa.schema([(name, known)]), pa.schema([(name, found)])]
        type = pa.unify_schemas(schemas, promote_options="permissive").field(name).type
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return pa.string()
    leaves = _leaves(pa.nulls(0, type), (name,))
    return pa.string() if any(place in wide and pa.types.is_floating(leaf.type) for place, leaf in leaves) else type


def _leaves(values: pa.Array, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], pa.Array]]:
    """What lies innermost in lists and objects, with its place; an object without fields lies innermost."""
    if pa.types.is_struct(values.type) and values.type.num_fields:
        for index, part in enumerate(values.type):
            yield from _leaves(values.field(index), (*place, part.name))
    elif pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        yield from _leaves(values.flatten(), (*place, ""))
    else:
        yield place, values
