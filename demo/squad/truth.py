"""The planted truth of the squad's demo: what share of the texts really meets each criterion, before and after.

    python -m demo.squad.truth runs/demo-squad --fixtures runs/demo-squad/fixtures

Truth is the world's own (`demo.world`), no model's. Beside it stand the AUCs that the run's inspectors and the judges
reach against it on the responses. Written beside the run's evaluation, where the report finds it.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from demo import world
from demo.squad.prepare import LESSONS
from pipelines.runtime.runs import open_run
from transforms.engines.inspector import open_inspector
from transforms.evaluation.classification import auc
from transforms.evaluation.win_rates import score_level
from transforms.tables import storage
from transforms.tables.table import read_table

NOTE = (
    "The share of texts that meet each criterion as the demo's made-up world reads them, without a model; texts that "
    "cannot be read do not. AUC: how well an inspector's scores of the responses tell those that meet it."
)


def share_that_meets(criterion: str, questions: Sequence[str], texts: Sequence[str]) -> str:
    """`0.512 (0.478–0.549)`: the share with its 95 % interval."""
    pairs = zip(questions, texts, strict=True)
    level = score_level([float(bool(world.meets(criterion, *pair))) for pair in pairs])
    low, high = level["mean_interval"]
    return f"{level['mean']:.3f} ({low:.3f}–{high:.3f})"


def planted_auc(criterion: str, folder: str, questions: Sequence[str], responses: Sequence[str]) -> float:
    truth = [world.meets(criterion, *pair) for pair in zip(questions, responses, strict=True)]
    is_readable = np.array([meets is not None for meets in truth])
    scores = open_inspector(folder).score(questions, responses)
    return auc(np.array([bool(meets) for meets in truth])[is_readable], scores[is_readable])


def measure(
    questions: Sequence[str], texts: Mapping[str, Sequence[str]], inspectors: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """A row for each criterion: its share in each of `texts`, the AUC of each of `inspectors` on the responses.

    texts: by what they are, `responses` first. inspectors: folders by criterion, by who they are.
    """
    rows = []
    for criterion in world.CRITERIA:
        shares = {name: share_that_meets(criterion, questions, answers) for name, answers in texts.items()}
        areas = {
            f"AUC, {name}": planted_auc(criterion, folders[criterion], questions, texts["responses"])
            for name, folders in inspectors.items()
        }
        rows.append({"criterion": criterion, **shares, **areas})
    return {"rows": rows, "note": NOTE}


def folders_of(run: Path) -> dict[str, Path]:
    """Return the folder of every step of a run."""
    return {stage.name: Path(stage.path) for stage in open_run(str(run)).stages}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="directory of a finished run of demo/squad/recipe.yaml")
    parser.add_argument("--fixtures", type=Path, required=True, help="what demo.squad.prepare made")
    arguments = parser.parse_args(argv)
    folders = folders_of(arguments.run)
    unguarded, guarded = (
        read_table(str(folders[name])).to_arrow(["question", "response", "aligned"])
        for name in ("unguarded", "guarded")
    )
    texts = {
        "responses": unguarded["response"].to_pylist(),
        "guard off": unguarded["aligned"].to_pylist(),
        "guard on": guarded["aligned"].to_pylist(),
    }
    inspectors = {
        "inspector": {name: str(folders[f"{name}/inspector"]) for name in world.CRITERIA},
        "judge": {name: str(arguments.fixtures / "judges" / name / [*LESSONS[name]][-1] / "model") for name in LESSONS},
    }
    figures = measure(unguarded["question"].to_pylist(), texts, inspectors)
    storage.write_json(str(folders["evaluation"] / "planted_truth.json"), figures)
    for row in figures["rows"]:
        print(
            "  ".join(
                f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items()
            )
        )


if __name__ == "__main__":
    main()
