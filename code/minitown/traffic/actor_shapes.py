"""Shapes of the moving actors, for the cameras and the LiDAR."""

import math

from thinktwice.minitown.traffic.pedestrians import Pedestrian
from thinktwice.minitown.traffic.vehicles import Vehicle
from thinktwice.minitown.world.classes import PEDESTRIAN, VEHICLE
from thinktwice.minitown.world.primitives import (
    BOX,
    CAR_BODY,
    CAR_CABIN,
    CLOTHES,
    CYLINDER,
    ELLIPSOID,
    PrimitiveBuilder,
    PrimitiveSet,
)

VEHICLE_CLEARANCE = 0.22
PERSON_HALF = (0.3, 0.3, 0.88)


def _add_vehicle(builder: PrimitiveBuilder, vehicle: Vehicle) -> None:
    """A body and a cabin; vans are one tall body."""
    x, y, yaw = vehicle.pose
    length, width, height = vehicle.half
    top = 2 * height
    braking = int(vehicle.is_braking)
    body_top = top if height > 0.95 else VEHICLE_CLEARANCE + 0.45 * (top - VEHICLE_CLEARANCE) + 0.1
    half = (length, width, (body_top - VEHICLE_CLEARANCE) / 2)
    center = (x, y, (body_top + VEHICLE_CLEARANCE) / 2)
    builder.add(BOX, center, half, VEHICLE, vehicle.color, yaw, CAR_BODY, braking)
    if body_top < top:
        back = 0.12 * length
        cabin = (x - back * math.cos(yaw), y - back * math.sin(yaw), (top + body_top) / 2)
        half = (0.55 * length, 0.86 * width, (top - body_top) / 2)
        builder.add(BOX, cabin, half, VEHICLE, vehicle.color, yaw, CAR_CABIN)


def _add_person(builder: PrimitiveBuilder, person: Pedestrian) -> None:
    """A body and a head."""
    x, y, yaw = person.pose
    builder.add(CYLINDER, (x, y, 0.74), (0.26, 0.26, 0.74), PEDESTRIAN, person.color, yaw, CLOTHES)
    builder.add(ELLIPSOID, (x, y, 1.62), (0.14, 0.14, 0.16), PEDESTRIAN, (206, 164, 136), yaw)


def actor_shapes(vehicles: list[Vehicle], people: list[Pedestrian]) -> PrimitiveSet:
    """Return the shapes of cars and people; leave the ego out of `vehicles`."""
    builder = PrimitiveBuilder()
    for vehicle in vehicles:
        _add_vehicle(builder, vehicle)
    for person in people:
        _add_person(builder, person)
    return builder.build()
