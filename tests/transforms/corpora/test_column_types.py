import json

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.corpora import records
from transforms.corpora.column_types import types_of_schema, types_of_values
from transforms.corpora.fields import look_at, read_chunks, schema_of

LARGE = (1 << 53) + 1


def merged(*batches):
    types = types_of_values([])
    for batch in batches:
        types = types.merge(types_of_values([{"c": value} for value in batch]))
    return types.types["c"]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("batches", "expected"),
    [
        ([[1], [0.5]], pa.float64()),
        ([[LARGE], [0.5]], pa.string()),
        ([[LARGE], [1], [0.5]], pa.string()),
        ([[LARGE], [1]], pa.int64()),
        ([[-LARGE], [0.5]], pa.string()),
        ([[1 << 53], [0.5]], pa.float64()),
        ([[[LARGE]], [[0.5]]], pa.string()),
        ([[{"a": LARGE, "b": 1}], [{"a": 1, "b": 0.5}]], pa.struct({"a": pa.int64(), "b": pa.float64()})),
        ([[{"a": LARGE}], [{"a": 0.5}]], pa.string()),
        ([[1], ["one"]], pa.string()),
        ([[None], [[True]]], pa.list_(pa.bool_())),
        ([[1 << 70], [1]], pa.string()),
    ],
)
def test_the_common_type_holds_every_value(batches, expected, reverse):
    assert merged(*(batches[::-1] if reverse else batches)) == expected


def test_a_declared_integer_may_be_large():
    for declared, expected in ((pa.int64(), pa.string()), (pa.int32(), pa.float64())):
        types = types_of_schema(pa.schema({"c": declared})).merge(types_of_schema(pa.schema({"c": pa.float64()})))
        assert types.types["c"] == expected


NUMBERS = st.one_of(st.integers(-(2**65), 2**65), st.floats(allow_nan=False), st.sampled_from([LARGE, 0.5, 1]))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(st.characters(codec="utf-8"), max_size=3)),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=4,
)


def without_nulls(value):
    """As it is once objects have a field more, which is null."""
    if isinstance(value, dict):
        return {name: without_nulls(part) for name, part in value.items() if part is not None}
    return [without_nulls(part) for part in value] if isinstance(value, list) else value


@settings(deadline=None)
@given(
    values=st.lists(NUMBERS | st.none(), min_size=1, max_size=6) | st.lists(VALUES, min_size=1, max_size=6),
    batch_rows=st.integers(1, 3),
)
def test_any_json_column_comes_back_as_it_was(tmp_path_factory, values, batch_rows):
    path = tmp_path_factory.mktemp("json") / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"question": "q?", "response": "r", "c": value}) for value in values))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "BATCH_ROWS", batch_rows)
        look = look_at(str(path), "responses", {})
        schema = schema_of("responses", [look])
        chunks = list(read_chunks(0, str(path), "responses", look.columns, schema))
    found = [row["c"] for chunk in chunks for row in chunk.batch.column("row").to_pylist()]
    if pa.types.is_string(schema.field("c").type):
        texts = zip(found, values, strict=True)
        found = [text if text is None or isinstance(value, str) else json.loads(text) for text, value in texts]
    assert without_nulls(found) == without_nulls(values)
