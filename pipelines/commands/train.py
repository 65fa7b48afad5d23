"""Train an inspector or an aligner from a table of triples, or from training shards; or a whole squad.

    alignbeam train inspector --data data/hh --output models/hh-inspector --base bert-base-uncased
    alignbeam train aligner --data runs/mine/curate/1a2b3c --output models/aligner --base gpt2-large --lora-rank 16
    alignbeam train aligner --data shards --output models/aligner --launch 'torchrun --nproc-per-node 8'
    alignbeam train squad --help

The shards of a table are written into OUTPUT.data; triples that were not curated yet are curated there first. All other
flags are the trainer's own: `python -m training.inspector --help`.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace

from pipelines.commands import train_squad
from pipelines.commands.train_inputs import METHODS, check_output, shards_for
from pipelines.runtime.trainers import TRAINERS, launcher, train
from schemas.command_line import DONE, Parser, config_parser, exit_code, resolve_flags
from schemas.console import results
from schemas.settings import config_text
from training.reporting import check_installed
from training.run_folder import base_digest


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["squad"]:
        return train_squad.main(arguments[1:])
    parser = Parser("alignbeam train", __doc__)
    parser.add_argument("method", choices=[*METHODS, "squad"])
    parser.add_argument("--data", required=True, help="training shards, or a table of triples, curated or not")
    parser.add_argument("--output", "-o", required=True, help="folder of the trained model")
    parser.add_argument("--launch", default="", help="what starts the trainer, such as 'torchrun --nproc-per-node 8'")

    def command() -> int:
        flags, of_trainer = parser.parse_known_args(arguments)
        own = config_parser(TRAINERS[flags.method], program=f"alignbeam train {flags.method}", description="")
        parsed = own.parse_args(["--data", flags.data, "--output", flags.output, *of_trainer])
        resolved = resolve_flags(TRAINERS[flags.method], parsed)
        if parsed.print_config:
            results.print(config_text(resolved), soft_wrap=True)
            return DONE
        config = resolved.config
        check_output(config.output)
        check_installed(config.report_to)
        base_digest(config.base)
        launcher(flags.launch)
        shards = shards_for(flags.method, config.data, config.output)
        train(flags.method, replace(config, data=shards), flags.launch)
        return DONE

    return exit_code(command)


if __name__ == "__main__":
    sys.exit(main())
