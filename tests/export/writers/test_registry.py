"""Every kind of graph file has a writer."""

from export.artifact.formats import GRAPH_FORMATS
from export.writers.registry import WRITERS


def test_every_format_has_a_writer_and_every_writer_a_format() -> None:
    assert set(WRITERS) == {graph_format.file for graph_format in GRAPH_FORMATS}
