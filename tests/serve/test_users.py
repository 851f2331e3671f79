"""Users of a run's data: their histories, read without what they wrote."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmrec.cli.recommend import _history_of
from llmrec.data.dataset import Dataset
from llmrec.errors import RunError
from llmrec.run.layout import RunFolder
from llmrec.serve.lookup import Users


@pytest.fixture
def unreadable_texts(tiny_run, tmp_path):
    """A run folder with the data of the small world, and texts beside them whose bytes are gone."""
    run = RunFolder(tmp_path / "run")
    run.data.mkdir(parents=True)
    data = Dataset.load(RunFolder(tiny_run).data)
    texts = pa.array([f"I wrote {row}" for row in range(data.interactions.num_rows)])
    pq.write_table(data.interactions.append_column("text", texts), run.data / "interactions.parquet")
    pq.write_table(data.items, run.data / "items.parquet")
    file = run.data / "interactions.parquet"
    part = pq.ParquetFile(file).metadata.row_group(0)
    column = next(part.column(at) for at in range(part.num_columns) if part.column(at).path_in_schema == "text")
    start = column.dictionary_page_offset or column.data_page_offset
    content = bytearray(file.read_bytes())
    content[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    file.write_bytes(content)
    return run


def test_histories_and_popular_items_are_read_without_texts(unreadable_texts, tiny_run):
    with pytest.raises(RunError, match="cannot be read as a Parquet table"):
        Dataset.load(unreadable_texts.data)
    truth, users = Users(RunFolder(tiny_run).data), Users(unreadable_texts.data)
    assert len(users) == 60 and users.ids == truth.ids
    for user in users.ids[:3]:
        assert users.history(user) == truth.history(user) == _history_of(unreadable_texts.path, user)
