import pytest

from thinktwice.geometry.route_planner import RouteNode, RoutePlanner, downsample_route

NODES = [
    RouteNode(0, 0, 4),
    RouteNode(0, 30, 4),
    RouteNode(0, 33, 1),
    RouteNode(0, 40, 1),
    RouteNode(0, 90, 4),
]


@pytest.mark.parametrize(
    ('east', 'target'), [(0.0, 30), (27.0, 33), (29.4, 40), (38.0, 90), (90.0, 90), (34.0, 40)]
)
def test_target_is_the_node_after_the_last_one_reached(east, target):
    node = RoutePlanner(NODES, 4.0, 50.0).step(0.0, east)
    assert (node.north, node.east) == (0, target)


def test_a_planner_never_goes_back():
    planner = RoutePlanner(NODES, 4.0, 50.0)
    targets = [planner.step(0.0, east).east for east in (0.0, 27.0, 38.0, 20.0, 0.0)]
    assert targets == sorted(targets)


def test_a_single_node_stays_the_target():
    assert RoutePlanner(NODES[:1], 4.0, 50.0).step(5.0, 5.0) is NODES[0]


def test_an_empty_route_is_refused():
    with pytest.raises(ValueError, match='at least one node'):
        RoutePlanner([], 4.0, 50.0)


def test_thinning_keeps_changes_of_command_long_gaps_and_the_end():
    dense = [RouteNode(0, east, 1 if 120 <= east < 130 else 4) for east in range(0, 201)]
    kept = [(node.east, node.command) for node in downsample_route(dense)]
    assert kept == [(0, 4), (51, 4), (102, 4), (120, 1), (130, 4), (181, 4), (200, 4)]
