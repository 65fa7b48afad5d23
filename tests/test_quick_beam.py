"""What tests keep of Beam's work for a session is what Beam would answer each time."""

import pytest
import quick_beam
from apache_beam.options.pipeline_options import DebugOptions, DirectOptions, PipelineOptions
from apache_beam.transforms import core
from apache_beam.transforms.userstate import get_dofn_specs


@pytest.mark.parametrize(
    "flags", [[], ["--runner=FlinkRunner", "--direct_num_workers=3", "--unknown=1"], ["--experiments=a", "--streaming"]]
)
def test_options_are_those_that_beam_parses(flags, monkeypatch):
    kinds = [PipelineOptions, *PipelineOptions.__subclasses__()]

    def said(**overrides):
        options = PipelineOptions(flags, **overrides)
        return [options.view_as(kind).get_all_options() for kind in kinds]

    quick_beam.remember()
    assert PipelineOptions.__init__ is quick_beam._options
    kept = [said(), said(), said(job_name="x"), said()]
    monkeypatch.setattr(PipelineOptions, "__init__", quick_beam._parse)
    assert str(kept) == str([said(), said(), said(job_name="x"), said()])


def test_options_of_one_pipeline_are_not_those_of_the_next():
    quick_beam.remember()
    first = PipelineOptions(["--experiments=a"])
    first.view_as(DebugOptions).experiments.append("b")
    first.view_as(DirectOptions).direct_num_workers = 7
    assert first.view_as(DebugOptions).experiments == ["a", "b"]
    assert first.view_as(DirectOptions).direct_num_workers == 7
    second = PipelineOptions(["--experiments=a"])
    assert second.view_as(DebugOptions).experiments == ["a"]
    assert second.view_as(DirectOptions).direct_num_workers == 1


def test_parameters_are_those_that_beam_sees(monkeypatch):
    class Step(core.DoFn):
        def process(self, element, window=core.DoFn.WindowParam, more=2):
            yield element

    def looks():
        step = Step()
        pairs = [core.get_function_args_defaults(method) for method in (step.process, Step.process, step.setup, len)]
        pairs[0][0].append("changed by whoever asked")
        return pairs, get_dofn_specs(step)

    quick_beam.remember()
    kept = [looks(), looks()]
    monkeypatch.setattr(core, "get_function_args_defaults", quick_beam._look)
    assert kept == [looks(), looks()]
    assert kept[0][0][1] == (["self", "element", "window", "more"], [core.DoFn.WindowParam, 2])
