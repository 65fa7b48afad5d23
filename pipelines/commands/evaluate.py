"""Judge an aligned corpus: is each aligned text better than the response it replaced?

    alignbeam evaluate out --inspector models/judge -o out
    alignbeam evaluate out --inspector strict=models/judge --pair-ranker models/ranker --two-way hhh.jsonl.gz -o out

Win rate as paper 000, app. F defines it (wins / all rows), wins / decided rows, ties; two-way accuracy on files with a
right and a wrong option; shift of scores; change of length and edit distance. Written to metrics.json and as a table.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines import evaluate
from pipelines.recipe.recipe import EvaluateSettings
from pipelines.recipe.two_way import import_two_way
from pipelines.runtime import entrypoint
from pipelines.runtime.runs import Record, RecordedStage, is_run, open_run
from schemas.command_line import setting
from schemas.errors import UsageError
from transforms.tables import storage


@dataclass(frozen=True, kw_only=True)
class Config(EvaluateSettings):
    aligned: str = setting("run directory of `alignbeam align`, or a table with response and aligned", positional=True)
    output: str = setting("run directory for the results", short="-o")
    seed: int = setting("seed of the bootstrap intervals", 0)

    def __post_init__(self) -> None:
        evaluate.check_has_judge(self)


def find_alignment(path: str) -> RecordedStage | None:
    """Return the finished alignment of a run, None where the path is no run.

    Raises UsageError where a run has none.
    """
    if not is_run(path):
        return None
    align = open_run(path).first_of("align")
    if align is None or align.status != "complete":
        raise UsageError(f"{path}: no aligned corpus in this run; finish alignbeam align first")
    return align


def run(config: Config, beam_arguments: Sequence[str] = ()) -> int:
    """Judge the corpus and list the evaluation in the run; return the exit code.

    The two-way files are imported first.
    """
    evaluate.judges_of(config)
    storage.check_writable(config.output)
    align = find_alignment(config.aligned)
    aligned = align.path if align else config.aligned
    evaluate.read_judged(aligned)  # what is wrong with it is said before anything is imported
    two_way = import_two_way(config.two_way, config.output, beam_arguments)
    started = time.monotonic()
    stage = evaluate.run(
        evaluate.Config(
            aligned=aligned,
            output=config.output,
            seed=config.seed,
            inspector=config.inspector,
            pair_ranker=config.pair_ranker,
            two_way={name: imported.directory for name, imported in two_way.items()},
        ),
        beam_arguments,
    )
    is_own = align is not None and config.aligned.rstrip("/") == config.output.rstrip("/")
    inputs = [align.name if align and is_own else aligned]
    Record(config.output).write_stage(stage, "complete", time.monotonic() - started, inputs=inputs)
    return entrypoint.report_stages(*two_way.values(), stage)


def main(argv: Sequence[str] | None = None) -> int:
    return entrypoint.command_main(argv, Config, run, program="alignbeam evaluate", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
