"""Train an inspector or an aligner from a table of triples, or from shards that `curate` made; or a whole squad.

    alignbeam train inspector --data data/hh --output models/hh-inspector --base bert-base-uncased
    alignbeam train aligner --data runs/mine/curate/1a2b3c --output models/aligner --base gpt2-large --lora-rank 16
    alignbeam train squad --help

Triples that were not curated yet are curated first, beside the output. All other flags are the trainer's own:
`python -m training.inspector --help`. On several GPUs launch the trainer itself with torchrun.
"""

import os
import subprocess
import sys
from collections.abc import Sequence

from pipelines import curate
from schemas.children import child_environment
from schemas.command_line import DONE, INTERRUPTED, WRONG_USE, Parser, exit_code
from schemas.errors import StageError, UsageError
from training.command_line import LIFELINE
from transforms.tables import storage
from transforms.tables.table import MANIFEST

METHODS = ("inspector", "aligner")


def find_shards(method: str, data: str) -> str | None:
    """The trainer's shards in `data`: as they are, or those of a curate stage; None where `data` is to be curated.

    UsageError where it is neither shards nor a table.
    """
    if storage.exists(storage.join(data, "train")):
        return data
    if storage.exists(storage.join(data, method, "train")):
        return storage.join(data, method)
    if not storage.exists(storage.join(data, MANIFEST)):
        raise UsageError(
            f"--data {data}: neither training shards (train/, validation/) nor a table of triples; "
            "make one with alignbeam import --kind triples"
        )
    return None


def shards_for(method: str, data: str, output: str) -> str:
    """The trainer's shards in `data`, a table of triples being curated first."""
    if shards := find_shards(method, data):
        return shards
    stage = curate.run(curate.Config(input=data, output=f"{output}.data"))
    return storage.join(stage.directory, method)


def run_trainer(method: str, arguments: Sequence[str]) -> None:
    """Run a trainer as a program of its own; what it prints is shown as it comes.

    Raises UsageError or StageError as its exit code says; KeyboardInterrupt where it was interrupted.
    """
    command = [sys.executable, "-m", f"training.{method}", *arguments]
    lifeline, held = os.pipe()  # the trainer ends when nobody holds the other end any more
    try:
        environment = child_environment() | {LIFELINE: str(lifeline)}
        code = subprocess.run(command, env=environment, pass_fds=[lifeline]).returncode
    finally:
        os.close(lifeline)
        os.close(held)
    if code == WRONG_USE:
        raise UsageError(f"the {method}'s trainer refused its settings (see above)")
    if code in (INTERRUPTED, -2):
        raise KeyboardInterrupt
    if code:
        raise StageError(f"the {method}'s trainer ended with exit code {code} (see above); run the command again")


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["squad"]:
        from pipelines.commands import train_squad

        return train_squad.main(arguments[1:])
    parser = Parser("alignbeam train", __doc__)
    parser.add_argument("method", choices=[*METHODS, "squad"])
    parser.add_argument("--data", required=True, help="training shards, a curate stage, or a table of triples")
    parser.add_argument("--output", "-o", required=True, help="folder of the trained model")

    def command() -> int:
        given, others = parser.parse_known_args(arguments)
        shards = shards_for(given.method, given.data, given.output)
        run_trainer(given.method, ["--data", shards, "--output", given.output, *others])
        return DONE

    return exit_code(command)


if __name__ == "__main__":
    sys.exit(main())
