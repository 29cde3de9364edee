"""Route planner: the sparse list of route nodes and the target point taken from it.

Positions are (north, east) in meters, as in the recorded measurements.
"""

import math
from dataclasses import dataclass

LANE_CHANGES = (5, 6)


@dataclass(frozen=True)
class RouteNode:
    """A point of the route and the road option that holds from it on."""

    north: float
    east: float
    command: int


def thin_route(nodes: list[RouteNode], spacing: float = 50.0) -> list[RouteNode]:
    """Keep the nodes that matter for navigation.

    Kept are lane-change nodes, nodes where the road option changes (unless a
    lane change went before), nodes after more than `spacing` meters, the last.
    """
    kept: list[RouteNode] = []
    walked = 0.0
    for index, node in enumerate(nodes):
        previous = nodes[index - 1] if index else node
        walked += math.hypot(node.north - previous.north, node.east - previous.east)
        changes = index > 0 and node.command != previous.command and previous.command not in LANE_CHANGES
        is_last = index == len(nodes) - 1
        if node.command in LANE_CHANGES or changes or walked > spacing or is_last or index == 0:
            kept.append(node)
            walked = 0.0
    return kept


class RoutePlanner:
    """Walks along a route and returns the node to drive to.

    The node kept as reached is the one with the largest index within
    `min_distance`; the 2023 planner took the farthest one, which may lie behind.

    Args:
        nodes: the route, at least one node.
        min_distance: nodes nearer than this count as reached, meters.
        max_distance: how far along the route to look, meters.
    """

    def __init__(self, nodes: list[RouteNode], min_distance: float, max_distance: float) -> None:
        if not nodes:
            raise ValueError('a route needs at least one node')
        self.nodes = list(nodes)
        self.min_distance = min_distance
        self.max_distance = max_distance

    def step(self, north: float, east: float) -> RouteNode:
        """Return the target node for a car at (north, east) meters."""
        if len(self.nodes) == 1:
            return self.nodes[0]
        reached, walked = 0, 0.0
        for index in range(1, len(self.nodes)):
            if walked > self.max_distance:
                break
            node, before = self.nodes[index], self.nodes[index - 1]
            walked += math.hypot(node.north - before.north, node.east - before.east)
            if math.hypot(node.north - north, node.east - east) <= self.min_distance:
                reached = index
        self.nodes = self.nodes[min(reached, len(self.nodes) - 2) :]
        return self.nodes[1]
