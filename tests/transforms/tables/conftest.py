import pyarrow.parquet as pq
import pytest
from copied_table import rows


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    pq.write_table(rows(0, 50), folder / "a.parquet", row_group_size=7)
    pq.write_table(rows(50, 53), folder / "b.parquet")
    return folder
