"""Train a squad: an inspector and a LoRA adapter for each criterion, and the file that `align --squad` takes.

    alignbeam train squad --data ethical=runs/e/curate/1a2b3c --data factual=data/factual \\
        --inspector-base bert-base-uncased --base Qwen/Qwen3-0.6B -o models/squad

The adapters share their base. Models are written to OUTPUT/CRITERION/inspector and OUTPUT/CRITERION/aligner, one after
the other, each by a program of its own; the same command skips what is trained and goes on. A table of triples that was
not curated yet is curated first, into OUTPUT/CRITERION.data.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from pipelines.commands.train_inputs import METHODS, find_shards, shards_for
from pipelines.runtime import entrypoint
from pipelines.runtime.trainers import ADAPTER, TRAINERS, run_trainer
from schemas.command_line import DONE, setting
from schemas.console import messages
from schemas.errors import UsageError
from schemas.settings import Layer, read_yaml, resolve, to_dict
from schemas.squads import Squad, SquadMember, load_squad, squad_yaml
from schemas.urls import redacted
from training import inspector as inspector_trainer
from training.run_folder import TrainingRun, base_digest
from transforms.tables import storage

SQUAD_FILE = "squad.yaml"


@dataclass(frozen=True, kw_only=True)
class Config:
    data: tuple[str, ...] = setting("CRITERION=FOLDER: its curate stage, or table of triples; once per criterion", ())
    output: str = setting("folder of the squad", short="-o")
    inspector_base: str = setting("encoder that the inspectors start from", inspector_trainer.Config.base)
    base: str = setting("causal model that the adapters share: a folder, or a hub id, of a kind that vLLM adapts")
    inspector_config: str | None = setting("settings of the inspectors, as YAML (see training.inspector)", None)
    aligner_config: str | None = setting("settings of the aligners, as YAML (see training.aligner)", None)

    def __post_init__(self) -> None:
        if not self.data:
            raise ValueError("data: give CRITERION=FOLDER for at least one criterion")
        squad_of(self)


def folders_of(config: Config) -> dict[str, str]:
    """Return the data of each criterion."""
    criteria, folders = [], []
    for pair in config.data:
        criterion, equals, folder = pair.partition("=")
        if not (criterion and equals and folder):
            raise ValueError(f"data: expected CRITERION=FOLDER, not {pair!r}")
        criteria.append(criterion)
        folders.append(folder)
    if len(set(criteria)) < len(criteria):
        raise ValueError(f"data: a criterion is given twice: {', '.join(criteria)}")
    return dict(zip(criteria, folders, strict=True))


def squad_of(config: Config) -> Squad:
    """Return the squad that is trained, its folders relative to its file."""
    return Squad(
        members=tuple(
            SquadMember(criterion=criterion, inspector=f"{criterion}/inspector", aligner=f"{criterion}/aligner")
            for criterion in folders_of(config)
        )
    )


def trainer_settings(config: Config, method: str) -> dict[str, Any]:
    """Return a trainer's settings but for its data and output.

    UsageError names what is wrong with its file.
    """
    path = config.inspector_config if method == "inspector" else config.aligner_config
    own = (read_yaml(path) or {}) if path else {}
    if not isinstance(own, dict):
        raise UsageError(f"{path}: expected settings by name, found {type(own).__name__}")
    if taken := {"base", "data", "output"} & own.keys():
        raise UsageError(f"{path}: {', '.join(sorted(taken))}: are flags of train squad; leave them out")
    settings = {**ADAPTER, **own} if method == "aligner" else dict(own)
    settings["base"] = config.inspector_base if method == "inspector" else config.base
    resolve(TRAINERS[method], [Layer(path or "train squad", {**settings, "data": "given", "output": "given"})])
    return settings


def check(config: Config) -> dict[str, dict[str, Any]]:
    """Return the settings of both trainers.

    Raises UsageError for a base, data or an output that will not do.
    """
    if "://" in config.output:
        raise UsageError(f"output = {config.output!r}: the trainers write to a local disk; give a local folder")
    storage.check_writable(config.output)
    settings = {method: trainer_settings(config, method) for method in METHODS}
    for method in METHODS:
        base_digest(settings[method]["base"])
    for folder in folders_of(config).values():
        if storage.exists(storage.join(folder, "train")):
            raise UsageError(f"--data {folder}: has the shards of one trainer; name their curate stage")
        for method in METHODS:
            find_shards(method, folder)
    path = storage.join(config.output, SQUAD_FILE)
    if storage.exists(path):
        named = {member.criterion for member in load_squad(path).members}
        trained = set(folders_of(config))
        if named != trained:
            raise UsageError(f"{path}: is a squad of {', '.join(sorted(named))}; choose another output, or remove it")
    return settings


def run(config: Config, _: Sequence[str] = ()) -> int:
    """Train what is not trained yet, and write the squad's file; return the exit code.

    A file that is there stays.
    """
    settings = check(config)
    planned: list[tuple[str, dict[str, Any]]] = []
    for criterion, folder in folders_of(config).items():
        models = storage.join(config.output, criterion)
        for method in METHODS:
            paths = {"data": shards_for(method, folder, models), "output": storage.join(models, method)}
            planned.append((method, settings[method] | paths))
    for method, of_trainer in planned:  # all before the first: an output of other settings must not show hours later
        TrainingRun.open(method, to_dict(TRAINERS[method](**of_trainer)))
    for method, of_trainer in planned:
        messages.print(of_trainer["output"], style="bold")
        path = f"{of_trainer['output']}.yaml"
        with storage.open_output(path) as file:
            file.write(yaml.safe_dump(redacted(of_trainer)).encode())
        run_trainer(method, ["--data", of_trainer["data"], "--config", path])
    path = storage.join(config.output, SQUAD_FILE)
    if not storage.exists(path):
        with storage.open_output(path) as file:
            file.write(squad_yaml(squad_of(config)).encode())
    messages.print(f"squad: {path}", soft_wrap=True)
    return DONE


def main(argv: Sequence[str] | None = None) -> int:
    return entrypoint.command_main(argv, Config, run, program="alignbeam train squad", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
