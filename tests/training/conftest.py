"""Training shards of a few dozen rows, and tiny bases to train on them."""

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_models

from schemas.tables import ALIGNER_ROWS, INSPECTOR_ROWS

GOOD = "be kind and talk calmly ask for help every day never give up".split()  # noqa: SIM905
BAD = "shout at them until they stop steal answers from others".split()  # noqa: SIM905
SIZES = {"train": 24, "validation": 8, "test": 8}


def words(rng, source):
    return " ".join(rng.choices(source, k=rng.randint(2, 8)))


def inspector_rows(split, rows):
    rng = random.Random(split)
    return [
        {"id": f"{split}{i}", "question": "how do i learn", "answer": words(rng, (BAD, GOOD)[i % 2]), "label": i % 2}
        for i in range(rows)
    ]


def aligner_rows(split, rows):
    rng = random.Random(split)
    return [
        {
            "id": f"{split}{i}",
            "question": "How do I learn?",
            "response": words(rng, BAD),
            "correction": "Ask for help every day.",
            "identity": False,
        }
        for i in range(rows)
    ]


@pytest.fixture
def write_shards(tmp_path):
    """Writes {split: rows} as Parquet shards, two per split, and gives their folder."""

    def write(splits, schema, name="shards"):
        for split, rows in splits.items():
            folder = tmp_path / name / split
            folder.mkdir(parents=True)
            for shard in range(2):
                table = pa.Table.from_pylist(rows[shard::2], schema=schema)
                pq.write_table(table, folder / f"shard-{shard:05d}.parquet")
        return tmp_path / name

    return write


@pytest.fixture
def inspector_shards(write_shards):
    return write_shards({split: inspector_rows(split, rows) for split, rows in SIZES.items()}, INSPECTOR_ROWS)


@pytest.fixture
def aligner_shards(write_shards):
    return write_shards({split: aligner_rows(split, rows) for split, rows in SIZES.items()}, ALIGNER_ROWS)


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    """Folders of tiny bases by name: encoder, gpt2 (tied embeddings), llama (puts <s> before every text)."""
    root = tmp_path_factory.mktemp("bases")
    return {name: getattr(tiny_models, name)(root / name) for name in ("encoder", "gpt2", "llama")}


@pytest.fixture
def refusal(capsys):
    """What a trainer's command line prints when it refuses: the flags of `settings`, with `changes` in their place."""

    def run(main, settings, changes):
        flags = dict(zip(changes[::2], changes[1::2], strict=True))
        for name in ("data", "output", "base", "max_tokens"):
            flags.setdefault("--" + name.replace("_", "-"), str(getattr(settings, name)))
        assert main([part for pair in flags.items() for part in pair]) == 2
        return capsys.readouterr().err

    return run
