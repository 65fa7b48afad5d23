"""Train an inspector or an aligner from a table of triples, or from shards that `curate` made; or a whole squad.

    alignbeam train inspector --data data/hh --output models/hh-inspector --base bert-base-uncased
    alignbeam train aligner --data runs/mine/curate/1a2b3c --output models/aligner --base gpt2-large --lora-rank 16
    alignbeam train squad --help

Triples that were not curated yet are curated first, beside the output. All other flags are the trainer's own:
`python -m training.inspector --help`. On several GPUs launch the trainer itself with torchrun.
"""

import sys
from collections.abc import Sequence

from pipelines.commands import train_squad
from pipelines.commands.train_inputs import METHODS, shards_for
from pipelines.runtime.trainers import run_trainer
from schemas.command_line import DONE, Parser, exit_code


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["squad"]:
        return train_squad.main(arguments[1:])
    parser = Parser("alignbeam train", __doc__)
    parser.add_argument("method", choices=[*METHODS, "squad"])
    parser.add_argument("--data", required=True, help="training shards, a curate stage, or a table of triples")
    parser.add_argument("--output", "-o", required=True, help="folder of the trained model")

    def command() -> int:
        flags, of_trainer = parser.parse_known_args(arguments)
        shards = shards_for(flags.method, flags.data, flags.output)
        run_trainer(flags.method, ["--data", shards, "--output", flags.output, *of_trainer])
        return DONE

    return exit_code(command)


if __name__ == "__main__":
    sys.exit(main())
