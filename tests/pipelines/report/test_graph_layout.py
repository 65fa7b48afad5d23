from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.report.graph_layout import Node, crossings, lay_out, layers_of, neighbours, positions, spread

DIAMOND = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c", "a"]}


def test_layers_are_the_longest_paths():
    needs = {"table": ["judged", "a"], "judged": ["b"], "a": [], "b": ["a", "elsewhere"], "alone": []}
    assert layers_of(needs) == {"a": 0, "alone": 0, "b": 1, "judged": 2, "table": 3}


def test_a_circle_in_a_damaged_file_ends():
    assert layers_of({"a": ["b"], "b": ["a"], "c": ["b"]}) == {"a": 0, "b": 1, "c": 2}
    assert layers_of({"a": ["a"]}) == {"a": 0}


def test_an_edge_that_passes_a_layer_has_a_node_there_that_edges_of_its_step_share():
    layout = lay_out({**DIAMOND, "e": ["a", "b"]})
    assert layout.ways["a", "d"] == [Node("a", 0), Node("a", 1), Node("d", 2)]
    assert layout.ways["a", "e"] == [Node("a", 0), Node("a", 1), Node("e", 2)]
    assert [set(nodes) for nodes in layout.layers] == [
        {Node("a", 0)},
        {Node("b", 1), Node("c", 1), Node("a", 1)},
        {Node("d", 2), Node("e", 2)},
    ]
    assert [layout.is_step(node) for node in (Node("a", 0), Node("a", 1))] == [True, False]


def test_only_edges_to_later_layers_are_drawn():
    assert lay_out({"a": ["b", "a", "gone"], "b": ["a"]}).ways.keys() == {("a", "b")}


def test_steps_are_put_beside_what_they_need():
    # Every second step needs the first of its own name: in the order of the file all four edges would cross.
    needs = {"a": [], "b": [], "c": [], "d": [], "to d": ["d"], "to c": ["c"], "to b": ["b"], "to a": ["a"]}
    layout = lay_out(needs)
    assert crossings(layout.layers, neighbours(layout.ways)[1]) == 0
    first, second = ([node.step for node in nodes] for nodes in layout.layers)
    assert [f"to {step}" for step in first] == second


def test_crossings_are_pairs_of_edges():
    a, b, c, d = Node("a", 0), Node("b", 0), Node("c", 1), Node("d", 1)
    assert crossings([[a, b], [c, d]], {a: [c], b: [d]}) == 0
    assert crossings([[a, b], [c, d]], {a: [d], b: [c]}) == 1
    assert crossings([[a, b], [c, d]], {a: [c, d], b: [c, d]}) == 1
    assert crossings([[a, b], [c]], {a: [c], b: [c]}) == 0


@pytest.mark.parametrize(
    ("wanted", "distances", "weights", "expected"),
    [
        ([], [], [], []),
        ([3.0, 20.0], [8], [1, 1], [3, 20]),
        ([10.0, 12.0], [8], [1, 1], [7, 15]),
        ([10.0, 12.0], [8], [3, 1], [8.5, 16.5]),
        ([0.0, 10.0, 10.0, 10.0], [5, 5, 5], [1, 1, 1, 1], [0, 5, 10, 15]),
    ],
)
def test_nodes_are_spread_as_near_to_where_they_should_be_as_they_may(wanted, distances, weights, expected):
    assert spread(wanted, distances, weights) == expected


def test_a_chain_and_its_long_edge_run_straight():
    layout = lay_out({"a": [], "b": ["a"], "c": ["b"], "d": ["c"], "x": [], "y": ["x", "d"]})
    middles = positions(layout, 70, 10, 12)
    assert len({middles[Node(step, layer)] for step, layer in (("b", 1), ("c", 2), ("d", 3))}) == 1
    assert len({middles[Node("x", layer)] for layer in (1, 2, 3)}) == 1


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 8), max_size=4), min_size=1, max_size=9))
def test_nothing_overlaps_and_every_edge_goes_layer_by_layer(needs):
    layout = lay_out({str(step): [str(need) for need in needed] for step, needed in enumerate(needs)})
    middles = positions(layout, 70, 10, 12)
    size_of = {node: 70 if layout.is_step(node) else 10 for node in middles}
    for nodes in layout.layers:
        for one, two in combinations(nodes, 2):
            assert middles[two] - middles[one] >= (size_of[one] + size_of[two]) / 2 + 12 - 1e-6
    assert min(middles[node] - size_of[node] / 2 for node in middles) == pytest.approx(0, abs=1e-6)
    for (start, end), way in layout.ways.items():
        assert [node.layer for node in way] == list(range(way[0].layer, way[-1].layer + 1))
        assert (way[0].step, way[-1].step) == (start, end)
        assert all(layout.is_step(node) for node in (way[0], way[-1]))
        assert not any(layout.is_step(node) for node in way[1:-1])
