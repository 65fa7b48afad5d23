from dataclasses import dataclass, field

import pytest

from schemas.errors import UsageError
from schemas.settings import Layer, config_text, parse_assignments, read_yaml, resolve, to_dict


@dataclass(frozen=True, kw_only=True)
class Sampling:
    max_tokens: int = 256
    temperature: float = 1.0

    def __post_init__(self):
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens: must be at least 1, not {self.max_tokens}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    model: str
    sampling: Sampling = field(default_factory=Sampling)
    more: dict = field(default_factory=dict)


def test_later_layers_win_and_each_value_knows_its_source():
    resolved = resolve(
        Settings,
        [
            Layer("recipe.yaml", {"model": "a", "sampling": {"max_tokens": 5, "temperature": 0.5}, "more": {"x": 1}}),
            Layer("--set", parse_assignments(["sampling.max_tokens=7"])),
            Layer("--model", {"model": "b"}),
        ],
    )
    assert resolved.config == Settings(model="b", sampling=Sampling(max_tokens=7, temperature=0.5), more={"x": 1})
    assert resolved.sources == {
        "model": "--model",
        "sampling.max_tokens": "--set",
        "sampling.temperature": "recipe.yaml",
        "more.x": "recipe.yaml",
    }
    assert config_text(resolve(Settings, [Layer("f", {"model": "m"})])).splitlines()[:2] == [
        'model                 "m"  # f',
        "sampling.max_tokens   256  # default",
    ]
    assert to_dict(resolved.config)["sampling"] == {"max_tokens": 7, "temperature": 0.5}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modle": "x"}, r"f: modle: unknown setting \(did you mean 'model'\?\)"),
        ({"model": "x", "sampling": {"max_token": 1}}, r"sampling.max_token: unknown setting"),
        ({}, "model: has no value"),
        ({"model": "x", "sampling": {"max_tokens": "many"}}, r"sampling.max_tokens: .*integer.*given: 'many'.*\[f\]"),
        ({"model": "x", "sampling": {"max_tokens": 0}}, "max_tokens: must be at least 1, not 0"),
        ([1], "f: expected settings by name, found list"),
    ],
)
def test_errors_name_key_value_and_source(values, message):
    with pytest.raises(UsageError, match=message):
        resolve(Settings, [Layer("f", values)])


def test_assignments_are_read_as_yaml():
    assert parse_assignments(["a.b=1", "a.c=[x, y]", "d=null"]) == {"a": {"b": 1, "c": ["x", "y"]}, "d": None}
    with pytest.raises(UsageError, match="--set a: expected name=value"):
        parse_assignments(["a"])
    with pytest.raises(UsageError, match="a was set to a plain value"):
        parse_assignments(["a=1", "a.b=2"])


def test_a_broken_file_is_named(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("a: [1,\nb: 2")
    with pytest.raises(UsageError, match=r"(?s)r.yaml: not YAML.*line 2"):
        read_yaml(str(path))
    path.write_bytes(b"a: \xff")
    with pytest.raises(UsageError, match="r.yaml: not UTF-8"):
        read_yaml(str(path))
    with pytest.raises(UsageError, match="absent.yaml: no such file"):
        read_yaml(str(tmp_path / "absent.yaml"))
    with pytest.raises(UsageError, match=f"{tmp_path}: cannot be read: .*directory"):
        read_yaml(str(tmp_path))
    with pytest.raises(UsageError, match="nostore://r.yaml: cannot be read: .*nostore"):
        read_yaml("nostore://r.yaml")


@pytest.mark.parametrize(
    "error",
    [PermissionError(13, "Permission denied"), ImportError("Install s3fs to access S3"), RuntimeError("key expired")],
)
def test_a_file_that_may_not_or_cannot_be_opened_is_named(monkeypatch, error):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr("fsspec.open", refuse)
    with pytest.raises(UsageError, match=f"s3://b/r.yaml: cannot be read: .*{str(error)[-8:]}"):
        read_yaml("s3://b/r.yaml")


def test_a_check_across_settings_names_the_source_of_what_it_names():
    @dataclass(frozen=True, kw_only=True)
    class Limited:
        limit: int

        def __post_init__(self):
            if self.limit < 1:
                raise ValueError(f"limit: must be at least 1, not {self.limit}")

    with pytest.raises(UsageError, match=r"^limit: must be at least 1, not 0 \[--limit\]$"):
        resolve(Limited, [Layer("r.yaml", {"limit": 5}), Layer("--limit", {"limit": 0})])
