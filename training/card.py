"""The card of a trained model: what it is, what it saw, how it was made and how it fared; no path of any machine."""

from typing import Any, NamedTuple

import yaml

from schemas.tables import SPLITS


class Card(NamedTuple):
    """What a trainer says of its models; `base` is the base's name, `pipeline_tag` a word that hubs know."""

    title: str
    summary: str
    use: str
    base: str
    pipeline_tag: str


def model_card(card: Card, identity: dict, metrics: dict[str, Any]) -> str:
    """Return README.md of a model folder, with the metadata header that hubs read."""
    header = {
        "library_name": "transformers",
        "base_model": card.base,
        "pipeline_tag": card.pipeline_tag,
        "tags": ["alignbeam"],
    }
    data = identity["data"]
    sections = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# {card.title}",
        card.summary,
        f"## Use\n\n{card.use}",
        "## Data\n\n"
        + _table(
            {
                "digest of the shards": data["digest"],
                "digest of the data's manifest": data["manifest_digest"] or "none: the shards came without a manifest",
                **{f"{split} rows": rows for split, rows in metrics["rows"].items()},
            }
        ),
        "## Training\n\n"
        + _table(identity["settings"] | {"processes": identity["processes"], "base": card.base, **metrics["versions"]}),
    ]
    for split in SPLITS[1:]:
        if metrics.get(split):
            sections.append(f"## Metrics on {split} data\n\n" + _table(metrics[split]))
    return "\n\n".join(sections) + "\n"


def _table(values: dict[str, Any]) -> str:
    rows = [f"| {name.replace('_', ' ')} | {_cell(value)} |" for name, value in values.items() if value is not None]
    return "\n".join(["| | |", "| --- | --- |", *rows])


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return " to ".join(map(_cell, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {_cell(item)}" for name, item in value.items())
    return str(value)
