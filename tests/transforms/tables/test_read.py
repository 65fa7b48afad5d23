"""Reading a table's first rows."""

from copied_table import write

from transforms.tables.table import read_manifest


def test_limit_takes_the_first_rows(corpus, tmp_path):
    write(corpus, tmp_path / "out", limit=12)
    assert read_manifest(str(tmp_path / "out"))["counts"]["in"] == 12
