"""The figures of judgements: win rates, shifts and levels of scores by judge, of all rows and by category."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.tables import WIN_RATES
from transforms.evaluation.judges import Judge, category_column
from transforms.evaluation.win_rates import score_level, score_shift, two_way_accuracy, win_rate

Figures = dict[str, Any]  # as metrics.json has them
SCORES = ("before", "after")


def figures(judges: Sequence[Judge], judgements: pa.Table, seed: int) -> Figures:
    """Return what the judges say of all rows: `judges`, and of those that score `score_shift` and `score_level`."""
    levels = {
        judge.name: {name: score_level(scores, seed=seed) for name, scores in _scores(judge, judgements).items()}
        for judge in judges
        if judge.kind == "inspector"
    }
    return rates_and_shifts(judges, judgements, seed) | {"score_level": levels}


def by_category(
    judges: Sequence[Judge], judgements: pa.Table, columns: Sequence[str], seed: int
) -> dict[str, dict[str, Figures]]:
    """Return `judges` and `score_shift` of every category: by column and value, in the order of the values."""
    tables: dict[str, dict[str, Figures]] = {}
    for column in columns:
        texts = np.array(judgements[category_column(column)].to_pylist(), dtype=object)
        values, value_of_row = np.unique(texts, return_inverse=True)
        tables[column] = {
            value: rates_and_shifts(judges, judgements.take(np.flatnonzero(value_of_row == number)), seed)
            for number, value in enumerate(values.tolist())
        }
    return tables


def rates_and_shifts(judges: Sequence[Judge], judgements: pa.Table, seed: int) -> Figures:
    rates, shifts = [], {}
    for judge in judges:
        counts = win_rate(judgements[judge.column("margin")].to_numpy(), seed=seed)
        rates.append(
            {
                "judge": judge.name,
                "kind": judge.kind,
                "n": counts["rows"],
                "win_rate": counts["win_rate"],
                "ci95": counts["win_rate_interval"],
                "wins_over_decided": counts["decided_win_rate"],
                "wins_over_decided_ci95": counts["decided_win_rate_interval"],
                "wins": counts["wins"],
                "losses": counts["losses"],
                "ties": counts["ties"],
            }
        )
        if judge.kind == "inspector":
            shifts[judge.name] = score_shift(*_scores(judge, judgements).values(), seed=seed)
    return {"judges": rates, "score_shift": shifts}


def _scores(judge: Judge, judgements: pa.Table) -> dict[str, np.ndarray]:
    return {name: judgements[judge.column(name)].to_numpy() for name in SCORES}


def two_way(judges: Sequence[Judge], name: str, items: pa.Table, seed: int) -> list[Figures]:
    """Return the two-way accuracy of every judge on triples, whose responses are the wrong options."""
    questions, wrong, right = (items[column].to_pylist() for column in ("question", "response", "correction"))
    return [
        {"judge": judge.name, "file": name}
        | two_way_accuracy(judge.compare(questions, wrong, right)["margin"], seed=seed)
        for judge in judges
    ]


def win_rates_table(labels: Mapping[str, Figures], over_seeds: Mapping[str, Figures]) -> pa.Table:
    """Return the figures of labels, and those over seeds, as rows: one for each judge, of all rows and by category."""
    rows = [row for label, of_label in labels.items() for row in _rows(label, None, of_label)]
    rows += [row for name, of_name in over_seeds.items() for row in _rows(name, len(of_name["seeds"]), of_name)]
    return pa.Table.from_pylist(rows, WIN_RATES)


def _rows(label: str, seeds: int | None, of_label: Figures) -> Iterator[dict[str, Any]]:
    groups = [("", "", of_label)]
    groups += [(column, value, part) for column, values in of_label["by"].items() for value, part in values.items()]
    for column, value, part in groups:
        for judged in part["judges"]:
            shift = part["score_shift"].get(judged["judge"])
            row: dict[str, Any] = {"label": label, "seeds": seeds, "column": column, "value": value}
            row |= {name: judged.get(name) for name in WIN_RATES.names if name in judged}
            row |= _bounds("", judged["ci95"]) | _bounds("decided_", judged["wins_over_decided_ci95"])
            if shift:
                row |= {"shift": shift["shift"]["mean"]} | _bounds("shift_", shift["mean_shift_interval"])
            yield row


def _bounds(prefix: str, interval: Sequence[float] | None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {f"{prefix}low": low, f"{prefix}high": high}
