"""Route planner: the sparse nodes of a route and the target point among them.

Positions are (north, east) in meters, as in the recorded measurements.
"""

import math
from dataclasses import dataclass
from enum import IntEnum


class RoadOption(IntEnum):
    """High-level commands of a route, with the numbers of the CARLA simulator."""

    LEFT = 1
    RIGHT = 2
    STRAIGHT = 3
    LANE_FOLLOW = 4
    CHANGE_LANE_LEFT = 5
    CHANGE_LANE_RIGHT = 6


LANE_CHANGES = (RoadOption.CHANGE_LANE_LEFT, RoadOption.CHANGE_LANE_RIGHT)


@dataclass(frozen=True)
class RouteNode:
    """A point of the route and the `RoadOption` that applies from there on."""

    north: float
    east: float
    command: int


def downsample_route(nodes: list[RouteNode], spacing: float = 50.0) -> list[RouteNode]:
    """Keep the nodes that matter for navigation.

    These are the first and the last node, lane changes, nodes where the road option
    changes (unless the node before is a lane change), and nodes more than `spacing`
    meters after the last one kept.
    """
    kept: list[RouteNode] = []
    distance = 0.0
    for index, node in enumerate(nodes):
        previous = nodes[index - 1] if index else node
        distance += math.hypot(node.north - previous.north, node.east - previous.east)
        changes = index > 0 and node.command != previous.command and previous.command not in LANE_CHANGES
        is_last = index == len(nodes) - 1
        if node.command in LANE_CHANGES or changes or distance > spacing or is_last or index == 0:
            kept.append(node)
            distance = 0.0
    return kept


class RoutePlanner:
    """Follows a route and returns the node to drive to.

    The last node within `min_distance` counts as reached; the 2023 planner takes the
    farthest one, which may lie behind the vehicle.

    Args:
        nodes: The route, at least one node.
        min_distance: Nodes nearer than this count as reached, meters.
        max_distance: How far along the route to look, meters.

    Raises:
        ValueError: If `nodes` is empty.
    """

    def __init__(self, nodes: list[RouteNode], min_distance: float, max_distance: float) -> None:
        if not nodes:
            raise ValueError('a route needs at least one node')
        self.nodes = list(nodes)
        self.min_distance = min_distance
        self.max_distance = max_distance

    def step(self, north: float, east: float) -> RouteNode:
        """Return the target node for a vehicle at (north, east) meters; nodes reached are dropped."""
        if len(self.nodes) == 1:
            return self.nodes[0]
        reached, distance = 0, 0.0
        for index in range(1, len(self.nodes)):
            if distance > self.max_distance:
                break
            node, before = self.nodes[index], self.nodes[index - 1]
            distance += math.hypot(node.north - before.north, node.east - before.east)
            if math.hypot(node.north - north, node.east - east) <= self.min_distance:
                reached = index
        self.nodes = self.nodes[min(reached, len(self.nodes) - 2) :]
        return self.nodes[1]
