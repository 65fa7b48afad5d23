"""What a pipeline raises, whatever Beam makes of it."""

import apache_beam as beam
import pytest

from pipelines.runtime.beam import run_pipeline
from pipelines.runtime.stage import Stage
from schemas import command_line
from schemas.errors import StageError, UsageError

WORDS = "http://gone: no server answers there"


class RefuseInSetup(beam.DoFn):
    def __init__(self, kind):
        self.kind = kind

    def setup(self):
        raise self.kind(WORDS)

    def process(self, element):
        yield element


class RefuseARow(RefuseInSetup):
    def setup(self):
        pass

    def process(self, element):
        raise self.kind(WORDS)


@pytest.mark.parametrize("step", [RefuseInSetup, RefuseARow])
@pytest.mark.parametrize("arguments", [(), ("--direct_num_workers=2", "--direct_running_mode=multi_threading")])
@pytest.mark.parametrize(("kind", "code"), [(UsageError, 2), (StageError, 1)])
def test_a_step_that_says_no_keeps_its_kind_and_its_words(step, arguments, kind, code):
    def build(root):
        return root | beam.Create([1]) | beam.ParDo(step(kind))

    with pytest.raises(kind, match=f"^{WORDS}$"):
        run_pipeline(build, arguments)
    assert command_line.exit_code(lambda: run_pipeline(build, arguments)) == code


def test_a_stage_knows_a_url_without_its_secrets():
    first, second = (Stage.under("out", "s", {"requests": [f"https://h/a?sig={n}"]}) for n in (1, 2))
    assert first.directory == second.directory
    assert first.identity == {"requests": ["https://h/a?sig=***"]}
    assert Stage.under("out", "s", {"requests": ["https://h/b?sig=1"]}).directory != first.directory
