"""Make what the squad's demo reads besides its teacher: held-out questions, the encoder, and a judge per criterion.

    python -m demo.squad.prepare runs/demo-squad/fixtures

Gives heldout.jsonl; minilm, a link to the installed encoder; and judges/<criterion>/<lesson>/, as demo.prepare does. A
judge learns its own criterion from answers that meet or lack the others independently, in the judges' own topics and
phrasings: it routes nothing and guards nothing.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from demo import world
from demo.prepare import Lesson, judge_lessons, train_judge, write_inputs

HELDOUT_QUESTIONS = 240
# As demo.prepare's for what needs the question understood; the other two are learned from fewer rows.
LESSONS = {
    "civic": {"naming": Lesson(1600, world.NAMING_WEIGHTS), "all": Lesson(4400, world.KIND_WEIGHTS)},
    "relevant": {"all": Lesson(1600, world.KIND_WEIGHTS)},
    "polite": {"all": Lesson(640, world.KIND_WEIGHTS)},
}


def prepare(directory: Path) -> None:
    """Write everything; what is there already stays the same, and a trained judge is not trained again."""
    write_inputs(directory, HELDOUT_QUESTIONS)
    for criterion, lessons in LESSONS.items():
        train_judge(judge_lessons(lessons, criterion), directory / "judges" / criterion)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path, help="folder for what is made")
    prepare(parser.parse_args(argv).directory)


if __name__ == "__main__":
    main()
