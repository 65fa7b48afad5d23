"""Where a run's steps stand in their picture: layers, an order within each with few crossings, and positions.

Layer 0 has the steps that need no other. Any other step stands one layer behind the last that it needs. An edge that
passes layers has a node in each of them, so that the boxes leave room; edges from one step share these nodes.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

SWEEPS = 12  # over the layers, for the order of nodes
POSITION_SWEEPS = 41
WAY_WEIGHT = 8.0


class Node(NamedTuple):
    """A step in its layer; in a later layer, what passes there from the step on its way to others."""

    step: str
    layer: int


Neighbours = Mapping[Node, Sequence[Node]]


@dataclass(frozen=True)
class Layout:
    """Layers of nodes in order; and the nodes that each edge (needed step, step) goes through, its ends included."""

    layer_of: dict[str, int]
    layers: list[list[Node]]
    ways: dict[tuple[str, str], list[Node]]

    def is_step(self, node: Node) -> bool:
        return self.layer_of[node.step] == node.layer


def layers_of(needs: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Return the layer of every step: the length of the longest path to it.

    Names that are no steps do not count. Of steps that need each other in a circle, the first is put where the others
    allow.
    """
    layer_of: dict[str, int] = {}
    left = list(needs)
    while left:
        waiting = set(left)
        ready = [name for name in left if not any(need in waiting for need in needs[name])] or left[:1]
        for name in ready:
            layer_of[name] = 1 + max((layer_of[need] for need in needs[name] if need in layer_of), default=-1)
        left = [name for name in left if name not in layer_of]
    return layer_of


def lay_out(needs: Mapping[str, Sequence[str]]) -> Layout:
    """Return the layout of steps, each with the names of those that it needs."""
    layer_of = layers_of(needs)
    ways = {}
    for step, needed in needs.items():
        for need in dict.fromkeys(needed):
            if layer_of.get(need, layer_of[step]) < layer_of[step]:
                through = [Node(need, layer) for layer in range(layer_of[need], layer_of[step])]
                ways[need, step] = [*through, Node(step, layer_of[step])]
    nodes = dict.fromkeys(Node(step, layer) for step, layer in layer_of.items())
    nodes |= dict.fromkeys(node for way in ways.values() for node in way)
    layers: list[list[Node]] = [[] for _ in range(1 + max(layer_of.values(), default=-1))]
    for node in nodes:
        layers[node.layer].append(node)
    before, after = neighbours(ways)
    return Layout(layer_of, _with_few_crossings(layers, before, after), ways)


def neighbours(ways: Mapping[tuple[str, str], Sequence[Node]]) -> tuple[Neighbours, Neighbours]:
    """Return the nodes beside each node, in the layer before and in the layer after."""
    links = dict.fromkeys(link for way in ways.values() for link in pairwise(way))
    before, after = defaultdict[Node, list[Node]](list), defaultdict[Node, list[Node]](list)
    for start, end in links:
        after[start].append(end)
        before[end].append(start)
    return before, after


def _with_few_crossings(layers: list[list[Node]], before: Neighbours, after: Neighbours) -> list[list[Node]]:
    """Put nodes beside the middle of their neighbours, layer by layer, forth and back.

    Returns the order that had the fewest crossings.
    """
    best, fewest = layers, crossings(layers, after)
    current = [list(nodes) for nodes in layers]
    for sweep in range(SWEEPS):
        sides, numbers = (before, range(1, len(layers))) if sweep % 2 == 0 else (after, range(len(layers) - 2, -1, -1))
        for number in numbers:
            index_of = {node: float(index) for nodes in current for index, node in enumerate(nodes)}
            middle = {node: _mean_beside(node, sides, index_of) for node in current[number]}
            current[number] = sorted(current[number], key=middle.__getitem__)
        if (count := crossings(current, after)) < fewest:
            best, fewest = [list(nodes) for nodes in current], count
    return best


def crossings(layers: Sequence[Sequence[Node]], after: Neighbours) -> int:
    """Count the pairs of edges between neighbouring layers that cross."""
    count = 0
    for nodes, following in pairwise(layers):
        index_of = {node: index for index, node in enumerate(following)}
        passed: list[int] = []  # ends of the edges that start further up
        for node in nodes:
            ends = [index_of[end] for end in after.get(node, ())]
            count += sum(end < earlier for end in ends for earlier in passed)
            passed += ends
    return count


def positions(layout: Layout, step_size: float, way_size: float, gap: float) -> dict[Node, float]:
    """Return the middle of every node across the layers, as near to those of its neighbours as sizes and gaps allow.

    Nodes that edges pass weigh more than steps, so that long edges run straight.
    """
    before, after = neighbours(layout.ways)
    every = [node for nodes in layout.layers for node in nodes]
    size_of = {node: step_size if layout.is_step(node) else way_size for node in every}
    weight_of = {node: 1.0 if layout.is_step(node) else WAY_WEIGHT for node in every}
    middle = dict.fromkeys(every, 0.0)
    for sweep in range(POSITION_SWEEPS):
        is_forth = sweep % 2 == 0
        for nodes in layout.layers if is_forth else layout.layers[::-1]:
            sides = before if is_forth else after
            wanted = [_mean_beside(node, sides, middle, weight_of) for node in nodes]
            pairs = pairwise(nodes)
            distances = [(size_of[one] + size_of[two]) / 2 + gap for one, two in pairs]
            middle |= dict(zip(nodes, spread(wanted, distances, [weight_of[node] for node in nodes]), strict=True))
    first = min((middle[node] - size_of[node] / 2 for node in every), default=0.0)
    return {node: position - first for node, position in middle.items()}


def _mean_beside(
    node: Node, sides: Neighbours, position_of: Mapping[Node, float], weight_of: Mapping[Node, float] | None = None
) -> float:
    """Return the mean position of a node's neighbours, its own where it has none."""
    beside = sides.get(node) or [node]
    weights = [weight_of[side] if weight_of else 1.0 for side in beside]
    return sum(weight * position_of[side] for side, weight in zip(beside, weights, strict=True)) / sum(weights)


def spread(wanted: Sequence[float], distances: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Return the positions nearest to the wanted ones that keep these distances, by weighted least squares."""
    # wanted [10 12] with a distance of 8: less the distances [10 4], which must not fall → [7 7] → [7 15]
    offsets = [0.0]
    for distance in distances:
        offsets.append(offsets[-1] + distance)
    blocks: list[tuple[float, float, int]] = []  # of neighbours that stand as near as they may: mean, weight, how many
    for position, offset, weight in zip(wanted, offsets, weights, strict=False):
        mean, count = position - offset, 1
        while blocks and blocks[-1][0] > mean:
            last, last_weight, nodes = blocks.pop()
            mean = (last * last_weight + mean * weight) / (last_weight + weight)
            weight, count = last_weight + weight, count + nodes
        blocks.append((mean, weight, count))
    means = [mean for mean, _, count in blocks for _ in range(count)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=False)]
