"""Two places for every node at the least cost: a minimum cut, by shortest augmenting paths."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from math import inf

#: Room below this is none: costs are seconds.
_NOTHING = 1e-12


class Network:
    """Nodes with a cost on either side, and costs where neighbours are on different sides."""

    def __init__(self) -> None:
        self._index: dict[Hashable, int] = {}
        self._edges: list[list[int]] = []  # of each node: indices into the lists below
        self._to: list[int] = []
        self._room: list[float] = []
        self._source, self._sink = self._node("source"), self._node("sink")

    def _node(self, key: Hashable) -> int:
        if key not in self._index:
            self._index[key] = len(self._edges)
            self._edges.append([])
        return self._index[key]

    def _edge(self, start: int, end: int, room: float, back: float = 0.0) -> None:
        for a, b, r in ((start, end, room), (end, start, back)):
            self._edges[a].append(len(self._to))
            self._to.append(b)
            self._room.append(r)

    def node(self, key: Hashable, left: float, right: float) -> None:
        """A node that costs so much on the left and on the right side; infinity forbids one."""
        at = self._node(("node", key))
        self._edge(self._source, at, right)
        self._edge(at, self._sink, left)

    def tie(self, maker: Hashable, readers: Sequence[Hashable], cost: float) -> None:
        """What it costs once if any reader is on another side than the maker."""
        tensor = ("tie", len(self._index))  # a maker may have several
        start = self._node(("node", maker))
        for side in (True, False):
            middle = self._node((tensor, side))
            self._edge(start, middle, cost if side else 0.0, 0.0 if side else cost)
            for reader in readers:
                end = self._node(("node", reader))
                self._edge(middle, end, inf if side else 0.0, 0.0 if side else inf)

    def left(self) -> set[Hashable]:
        """The nodes that are on the left side at the least total cost."""
        while True:
            path, reached = self._search()
            if path is None:
                break
            amount = min(self._room[edge] for edge in path)
            for edge in path:
                self._room[edge] -= amount
                self._room[edge ^ 1] += amount
        return {
            key[1]
            for key, at in self._index.items()
            if isinstance(key, tuple) and key[0] == "node" and at in reached
        }

    def _search(self) -> tuple[list[int] | None, Mapping[int, int]]:
        """A shortest path with room from source to sink, or what the source reaches."""
        came: dict[int, int] = {self._source: -1}
        waiting = deque([self._source])
        while waiting:
            at = waiting.popleft()
            if at == self._sink:
                path = []
                while at != self._source:
                    path.append(came[at])
                    at = self._to[came[at] ^ 1]
                return path, came
            for edge in self._edges[at]:
                if self._room[edge] > _NOTHING and self._to[edge] not in came:
                    came[self._to[edge]] = edge
                    waiting.append(self._to[edge])
        return None, came


def place(
    costs: Mapping[Hashable, tuple[float, float]],
    ties: Sequence[tuple[Hashable, Sequence[Hashable], float]],
) -> set[Hashable]:
    """The nodes of the left side at the least total cost.

    Args:
        costs: Of each node on the left and on the right side; infinity forbids a side.
        ties: Maker, readers, and what it costs if a reader is on another side than the maker.
    """
    network = Network()
    for key, (left, right) in costs.items():
        network.node(key, left, right)
    for maker, readers, cost in ties:
        network.tie(maker, readers, cost)
    return network.left()


__all__ = ["place"]
