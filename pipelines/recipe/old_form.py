"""Recipes of before, whose stages were fixed, as recipes of named steps that do the same.

There was one `criterion`, or a list of them; `stages` had settings for each stage, `stages_of` what was different for
one criterion. Trainers had a seed of their own, 42, whatever the recipe's was.
"""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from schemas.criteria.pack import load_pack
from schemas.errors import UsageError
from schemas.squads import SquadMember

OLD_KEYS = {"criterion", "stages", "heldout", "stages_of"}
OF_CRITERION = {  # the stages of one criterion, and the steps that do them now
    "questions": "questions",
    "triples": "triples",
    "curate": "curated",
    "train_inspector": "inspector",
    "train_aligner": "aligner",
}
OF_ALL = ("tests", "responses", "aligned", "compared", "evaluation")
TRAINER_SEED = 42
BASES = {"train_inspector": "bert-base-uncased", "train_aligner": "gpt2-large"}
ADAPTER = {"adapter": True, "lora_rank": 16}  # how the aligners of several criteria were trained


def new_form(old: Mapping[str, Any]) -> str:
    """Return the YAML text of the recipe that does what one of the old form did."""
    recipe = _Converted(old).recipe()
    return yaml.dump(recipe, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style='"' if "\n" in text else None)


_Dumper.add_representer(str, _Dumper.represent_text)


class _Converted:
    def __init__(self, old: Mapping[str, Any]) -> None:
        self.old = old
        self.stages = {name: _mapping(settings) for name, settings in _mapping(old.get("stages")).items()}
        criterion = old.get("criterion", "mine.yaml")
        self.is_group = isinstance(criterion, list | tuple)
        self.packs = {_criterion_of(pack): pack for pack in _texts(criterion)}
        models = _mapping(old.get("models"))
        self.models = {name: _mapping(models.get(name)) for name in ("teacher", "upstream")}
        self.rewriter = _mapping(models.get("aligner"))
        self.imports: dict[str, dict[str, Any]] = {}

    def recipe(self) -> dict[str, Any]:
        if self.old.get("heldout"):
            self.imports["heldout"] = {"stage": "import", "corpus": self.old["heldout"], "kind": "questions"}
        of_criterion = self.of_criterion()
        if self.is_group:
            group = {"each": {"criterion": self.packs}, "steps": of_criterion}
            steps = {"criteria": group, **self.changes()}
        else:
            steps = of_criterion
        steps |= self.of_all()
        head = {key: self.old[key] for key in ("name", "seed", "toy") if key in self.old}
        return {"name": "mine", **head, "models": self.models, "steps": self.imports | steps}

    def of_criterion(self) -> dict[str, Any]:
        """Return the steps from the questions to the models of a criterion."""
        pack = "{criterion}" if self.is_group else next(iter(self.packs.values()))
        adapter: dict[str, Any] = ADAPTER if self.is_group else {}
        heldout = {"heldout": ["heldout"]} if self.old.get("heldout") else {}
        generate = {"model": "teacher", "pack": pack}
        train = {"data": "curated", "seed": TRAINER_SEED}
        inputs: dict[str, dict[str, Any]] = {
            "questions": generate,
            "triples": {"questions": "questions", **generate},
            "curate": {"table": "triples", **heldout},
            "train_inspector": {**train, "base": self.model("encoder", BASES["train_inspector"])},
            "train_aligner": {**train, "base": self.model("base", BASES["train_aligner"]), **adapter},
        }
        return {
            step: {"stage": stage, **inputs[stage], **self.settings_of(stage, self.stages.get(stage, {}), "")}
            for stage, step in OF_CRITERION.items()
        }

    def changes(self) -> dict[str, Any]:
        """Return what is different for a criterion of several."""
        return {
            f"{_name_of(criterion)}/{OF_CRITERION[stage]}": self.settings_of(stage, _mapping(settings), f"{criterion}-")
            for criterion, stages in _mapping(self.old.get("stages_of")).items()
            for stage, settings in _mapping(stages).items()
            if stage in OF_CRITERION
        }

    def settings_of(self, stage: str, settings: dict[str, Any], owner: str) -> dict[str, Any]:
        """Return a stage's settings, with names for the files and models that they had."""
        settings = {name: value for name, value in settings.items() if name != "rows_per_shard"}
        if paths := settings.pop("heldout", None):
            settings["heldout_files"] = _texts(paths)
        if settings.get("previous"):
            settings["previous"] = self.imported(f"{owner}earlier", settings["previous"], {"kind": "triples"})
        if settings.get("embedder"):
            settings["embedder"] = self.model(f"{owner}embedder", settings["embedder"])
        if settings.get("base"):
            name = "encoder" if stage == "train_inspector" else "base"
            settings["base"] = self.model(f"{owner}{name}", settings["base"])
        return settings

    def of_all(self) -> dict[str, Any]:
        """Return the steps that are done once: answers to held-out questions, aligned and judged."""
        steps: dict[str, Any] = {}
        questions = "heldout" if "heldout" in self.imports else "tests"
        if questions == "tests":
            tests = {"tables": ["curated"], "columns": {"question": "question"}, "where": {"split": ["test"]}}
            steps["tests"] = {"stage": "derive", **tests}
        respond = self.stages.get("respond", {})
        steps["responses"] = {"stage": "respond", "questions": questions, "model": "upstream", **respond}
        align = dict(self.stages.get("align", {}))
        compare = _mapping(align.pop("compare", None))
        steps["aligned"] = self.aligned(align)
        tables: Any = "aligned"
        if compare:
            steps["compared"] = self.aligned({**align, **compare})
            tables = {"aligned": "aligned", "compared": "compared"}
        evaluate = dict(self.stages.get("evaluate", {}))
        inspectors = dict(self.steps_called("inspector"))
        inspectors |= dict(map(self.judge, _texts(evaluate.pop("inspector", ()))))
        evaluation = {"stage": "evaluate", "aligned": tables, "inspectors": inspectors}
        if ranker := evaluate.pop("pair_ranker", None):
            evaluation["pair_ranker"] = self.model("pair-ranker", ranker)
        if files := _texts(evaluate.pop("two_way", ())):
            of_import = {"kind": "triples", "response_column": "rejected"}
            names = [_name_of(path.rpartition("/")[2].partition(".")[0]) for path in files]
            evaluation["two_way"] = {
                name: self.imported(f"two-way-{name}", path, of_import) for name, path in zip(names, files, strict=True)
            }
        steps["evaluation"] = evaluation | evaluate
        return steps

    def aligned(self, align: dict[str, Any]) -> dict[str, Any]:
        threshold = align.get("threshold", SquadMember.threshold)
        inspectors = dict(self.steps_called("inspector"))
        members = []
        for criterion, aligner in self.steps_called("aligner"):
            if self.rewriter:
                name = f"rewriter-{criterion}" if self.is_group else "rewriter"
                self.models[name] = {"step": aligner, **self.rewriter}
                aligner = name
            member = {"criterion": criterion, "inspector": inspectors[criterion], "aligner": aligner}
            members.append(member | ({"threshold": threshold} if threshold != SquadMember.threshold else {}))
        settings = {key: value for key, value in align.items() if key != "threshold"}
        routing = {} if self.is_group else {"routing": "fixed"}
        return {"stage": "align", "responses": "responses", "members": members, **routing, **settings}

    def steps_called(self, name: str) -> list[tuple[str, str]]:
        return [(criterion, f"{criterion}/{name}" if self.is_group else name) for criterion in self.packs]

    def judge(self, named: str) -> tuple[str, str]:
        """Return a judge's name, and that of its entry of `models`, which no step may have."""
        name, equals, folder = named.partition("=")
        name = _name_of(name if equals else named.rstrip("/").rpartition("/")[2])
        taken = {*self.models, *self.imports, *OF_CRITERION.values(), *OF_ALL}
        return name, self.model(f"{name}-judge" if name in taken else name, folder or named)

    def model(self, name: str, model: str) -> str:
        self.models[name] = {"model": model}
        return name

    def imported(self, name: str, path: str, settings: dict[str, Any]) -> str:
        self.imports[name] = {"stage": "import", "corpus": path, **settings}
        return name


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _texts(value: Any) -> list[str]:
    return [str(item) for item in (value if isinstance(value, list | tuple) else [value])]


def _criterion_of(pack: str) -> str:
    """Return what results of a pack are called; where it cannot be read, its file's name."""
    try:
        return _name_of(load_pack(pack).name)
    except UsageError:
        return _name_of(pack.rpartition("/")[2].removesuffix(".yaml"))


def _name_of(text: str) -> str:
    return re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9_-]+", "-", text).strip("-") or "mine"
