"""Where to draw the nodes of a graph: a row for each step of computation, a lane for each branch beside the trunk."""

from collections.abc import Sequence
from dataclasses import dataclass

from models.graph.node import Node
from models.graph.receptive_field import Pair


@dataclass(frozen=True)
class Position:
    """Where a node is drawn, and which module folds it away.

    Attributes:
        row: length of the longest path from the input, from 1 on; every edge leads to a higher row.
        lane: 0 for the trunk, 1 and so on for branches beside it. No two nodes share a row and a lane, and no edge
            between nodes of one lane passes another node of that lane.
        module: path of the module that the node belongs to, such as `layer1.0`; empty at the top.
    """

    row: int
    lane: int
    module: str


def layout(nodes: Sequence[Node]) -> list[Position]:
    """Positions of nodes that are in the order of computation, in that order.

    A node goes on in the lane of one of its parents if nothing has been drawn there since; the first lane that is free
    is taken otherwise. A lane is free where no edge passes by.
    """
    rows = _rows(nodes)
    last_use = _last_uses(nodes, rows)
    taken: dict[int, list[tuple[int, int]]] = {}  # by lane: the rows that a node and its outgoing edges cover
    lanes: dict[str, int] = {"input": 0}
    for index in sorted(range(len(nodes)), key=lambda place: (rows[nodes[place].name], place)):
        node = nodes[index]
        row = rows[node.name]
        span = (row, max(last_use[node.name], row + 1))
        own = [lanes[parent] for parent in node.parents if parent in lanes]
        ends = [lanes[name] for name in node.parents if name in last_use and last_use[name] == row]
        candidates = [*sorted(ends), *sorted(own), *range(len(taken) + 1)]
        lane = next(one for one in candidates if _is_free(taken.get(one, []), span))
        taken.setdefault(lane, []).append(span)
        lanes[node.name] = lane
    return [Position(rows[node.name], lanes[node.name], node.name.rpartition(".")[0]) for node in nodes]


def center(node: Node) -> tuple[float, float] | None:
    """The middle of the receptive field of position (0, 0), (row, column) in input pixels; None where it is unknown."""
    if node.start is None or node.receptive_field is None:
        return None
    start, size = node.start, node.receptive_field
    return _middle(start, size, 0), _middle(start, size, 1)


def _middle(start: Pair, size: Pair, axis: int) -> float:
    return start[axis] + (size[axis] - 1) / 2


def _rows(nodes: Sequence[Node]) -> dict[str, int]:
    rows = {"input": 0}
    for node in nodes:
        rows[node.name] = 1 + max((rows.get(parent, 0) for parent in node.parents), default=0)
    return rows


def _last_uses(nodes: Sequence[Node], rows: dict[str, int]) -> dict[str, int]:
    """The row of the last node that reads each node; its own if none does."""
    found = dict(rows)
    for node in nodes:
        for parent in node.parents:
            if parent in found:
                found[parent] = max(found[parent], rows[node.name])
    return found


def _is_free(spans: Sequence[tuple[int, int]], span: tuple[int, int]) -> bool:
    return all(span[1] <= first or last <= span[0] for first, last in spans)
