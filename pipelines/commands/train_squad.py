"""Train a squad: an inspector and a LoRA adapter for each criterion, and the file that `align --squad` takes.

    alignbeam train squad --data ethical=runs/e/curate/1a2b3c --data factual=data/factual \\
        --inspector-base bert-base-uncased --base Qwen/Qwen3-0.6B -o models/squad

The adapters share their base. OUTPUT is a run directory: its steps CRITERION/inspector and CRITERION/aligner are
trained one after the other, each by a program of its own, and OUTPUT/squad.yaml names their folders. The same command
skips what is trained and goes on. A table of triples that was not curated yet is curated first (CRITERION/curated).
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from pipelines.commands.train_inputs import METHODS, check_output, curation
from pipelines.runtime import entrypoint
from pipelines.runtime.at_work import at_work
from pipelines.runtime.runs import Record
from pipelines.runtime.stage import Stage
from pipelines.runtime.step import ModelSource, Place, PlannedStep, StageKind, TableSource
from pipelines.runtime.steps import check_outside, do_steps
from pipelines.train import ALIGNER, INSPECTOR
from schemas.command_line import DONE
from schemas.console import messages
from schemas.errors import UsageError
from schemas.fields import setting
from schemas.settings import Layer, read_yaml, resolve
from schemas.squads import Squad, SquadMember, load_squad, squad_yaml
from training import inspector as inspector_trainer
from transforms.tables import storage

SQUAD_FILE = "squad.yaml"
ADAPTER = {"adapter": True, "lora_rank": 16}  # how an aligner is trained unless its settings say otherwise
KINDS: Mapping[str, StageKind] = {"inspector": INSPECTOR, "aligner": ALIGNER}


@dataclass(frozen=True, kw_only=True)
class Config:
    data: tuple[str, ...] = setting("CRITERION=FOLDER: its curate stage, or table of triples; once per criterion", ())
    output: str = setting("folder of the squad", short="-o")
    inspector_base: str = setting("encoder that the inspectors start from", inspector_trainer.Config.base)
    base: str = setting("causal model that the adapters share: a folder, or a hub id, of a kind that vLLM adapts")
    inspector_config: str | None = setting("settings of the inspectors, as YAML (see training.inspector)", None)
    aligner_config: str | None = setting("settings of the aligners, as YAML (see training.aligner)", None)
    launch: str = setting("what starts a trainer, such as 'torchrun --nproc-per-node 8'", "")

    def __post_init__(self) -> None:
        if not self.data:
            raise ValueError("data: give CRITERION=FOLDER for at least one criterion")
        squad_of({criterion: {method: method for method in METHODS} for criterion in folders_of(self)})


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


def squad_of(folders: Mapping[str, Mapping[str, str]]) -> Squad:
    """Return the squad of these models, by criterion and method."""
    members = (
        SquadMember(criterion=name, inspector=of["inspector"], aligner=of["aligner"]) for name, of in folders.items()
    )
    return Squad(members=tuple(members))


def trainer_config(config: Config, method: str) -> Any:
    """Return a trainer's Config, with no data yet; UsageError names what is wrong with its file."""
    path = config.inspector_config if method == "inspector" else config.aligner_config
    own = (read_yaml(path) or {}) if path else {}
    if not isinstance(own, dict):
        raise UsageError(f"{path}: expected settings by name, found {type(own).__name__}")
    if taken := {"base", "data", "output"} & own.keys():
        raise UsageError(f"{path}: {', '.join(sorted(taken))}: are flags of train squad; leave them out")
    settings = {**ADAPTER, **own} if method == "aligner" else own
    base = config.inspector_base if method == "inspector" else config.base
    layer = Layer(path or "train squad", {**settings, "base": base, "data": "", "output": ""})
    return resolve(KINDS[method].config, [layer]).config


def steps_of(config: Config) -> list[PlannedStep]:
    """Return the steps that train the squad, curation first; UsageError for settings or data that will not do."""
    configs = {method: trainer_config(config, method) for method in METHODS}
    curations, trainings = [], []
    for criterion, folder in folders_of(config).items():
        if storage.exists(storage.join(folder, "train")):
            raise UsageError(f"--data {folder}: has the shards of one trainer; name their curate stage")
        steps, source = curation(f"{criterion}/curated", folder)
        curations += steps
        for method, of_trainer in configs.items():
            sources: dict[str, TableSource | ModelSource] = {
                "data": source,
                "base": ModelSource({"model": of_trainer.base}),
            }
            own = replace(of_trainer, data=source.step or source.path)
            trainings.append(PlannedStep(f"{criterion}/{method}", KINDS[method], own, sources))
    return [*curations, *trainings]


def check_criteria(config: Config) -> None:
    """Raise UsageError where the output is a squad of other criteria."""
    path = storage.join(config.output, SQUAD_FILE)
    if not storage.exists(path):
        return
    named = {member.criterion for member in load_squad(path).members}
    if named != folders_of(config).keys():
        raise UsageError(f"{path}: is a squad of {', '.join(sorted(named))}; choose another output, or remove it")


def write_squad(config: Config, made: Mapping[str, Stage]) -> str:
    """Write the squad's file, its folders beside it, and return its path.

    Of a file that is there, only folders of models that were trained here before are changed.
    """
    path = storage.join(config.output, SQUAD_FILE)
    folders = {
        criterion: {
            method: storage.relative(made[f"{criterion}/{method}"].directory, config.output) for method in METHODS
        }
        for criterion in folders_of(config)
    }
    text = squad_yaml(squad_of(folders))
    if storage.exists(path):
        values = read_yaml(path)
        stale = [
            (member, method)
            for member in values["members"]
            for method in METHODS
            if member[method].startswith(f"{KINDS[method].name}/")
            and member[method] != folders[member["criterion"]][method]
        ]
        for member, method in stale:
            member[method] = folders[member["criterion"]][method]
        text = yaml.safe_dump(values, sort_keys=False) if stale else ""
    if text:
        with storage.open_output(path) as file:
            file.write(text.encode())
    return path


def run(config: Config, _: Sequence[str] = ()) -> int:
    """Train what is not trained yet, and write the squad's file; return the exit code."""
    check_output(config.output)
    check_criteria(config)
    steps, place = steps_of(config), Place(config.output, launch=config.launch)
    check_outside(steps, place)
    with at_work(config.output):
        made = do_steps(steps, Record(config.output), place)
    messages.print(f"squad: {write_squad(config, made)}", soft_wrap=True)
    return DONE


def main(argv: Sequence[str] | None = None) -> int:
    return entrypoint.command_main(argv, Config, run, program="alignbeam train squad", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
