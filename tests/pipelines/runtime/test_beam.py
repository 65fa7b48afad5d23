import pytest

from pipelines.runtime.beam import beam_options
from schemas.errors import UsageError


def test_a_runner_that_beam_does_not_have_is_named():
    with pytest.raises(UsageError, match=r"--runner=Foo: .*Foo"):
        beam_options(["--runner=Foo"])


@pytest.mark.parametrize("name", ["DirectRunner", "FlinkRunner"])
def test_runners_that_beam_has_are_taken(name):
    assert beam_options([f"--runner={name}"]).get_all_options()["runner"] == name
