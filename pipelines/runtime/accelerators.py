"""Accelerators where the models are: Beam's hint, kept to the steps that texts flow through.

`-- --resource_hints=accelerator=type:nvidia-l4;count:1;install-nvidia-driver` asks Dataflow for GPUs. Left to Beam it
would hold for every step. A hint of one step alone would end the fusion with its neighbours, so that every text
passed through Dataflow's shuffle on its way to the model and back. Here it goes to the whole stretch between two
shuffles in which chunks are read, worked on and written: hints then change nowhere but at a shuffle that is there
anyway, and no text crosses that.
"""

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor
from apache_beam.transforms.resources import parse_resource_hints

from transforms.tables.chunks import Chunk


def take_accelerator(options: PipelineOptions) -> dict[str, bytes]:
    """Take Beam's accelerator hint out of the options; empty where there is none."""
    standard = options.view_as(StandardOptions)
    hints = {hint: hint.partition("=") for hint in standard.resource_hints}
    standard.resource_hints = [hint for hint, (name, _, _) in hints.items() if name != "accelerator"]
    return parse_resource_hints({name: value for name, _, value in hints.values() if name == "accelerator"})


def place_accelerator(root: beam.Pipeline, hint: dict[str, bytes]) -> None:
    """Give the hint to every step that takes or makes chunks.

    Steps through which its input comes unshuffled have it too.
    """
    root.visit(_HintChunkSteps(hint))


class _HintChunkSteps(PipelineVisitor):
    def __init__(self, hint: dict[str, bytes]):
        self.hint = hint

    def visit_transform(self, step: AppliedPTransform) -> None:
        if any(values.element_type is Chunk for values in (*step.inputs, *step.outputs.values())):
            self._hint_from_shuffle(step)

    def _hint_from_shuffle(self, step: AppliedPTransform) -> None:
        if isinstance(step.transform, (beam.GroupByKey, beam.Impulse)):
            return
        step.resource_hints |= self.hint
        for values in step.inputs:
            if values.element_type is not Chunk:  # what makes chunks is visited itself
                self._hint_from_shuffle(values.producer)
