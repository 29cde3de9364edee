"""Shapes of vehicles and pedestrians, for the cameras and the LiDAR."""

from thinktwice.geometry.poses import ego_to_world
from thinktwice.minitown.traffic.pedestrians import Pedestrian
from thinktwice.minitown.traffic.vehicles import Vehicle
from thinktwice.minitown.world.classes import PEDESTRIAN, VEHICLE
from thinktwice.minitown.world.primitives import (
    BOX,
    CLOTHES,
    CYLINDER,
    ELLIPSOID,
    VEHICLE_BODY,
    VEHICLE_CABIN,
    PrimitiveBuilder,
    PrimitiveSet,
)

VEHICLE_CLEARANCE = 0.22
PEDESTRIAN_HALF = (0.3, 0.3, 0.88)


def _add_vehicle(builder: PrimitiveBuilder, vehicle: Vehicle) -> None:
    """Add a body and a cabin; vans are one tall body."""
    x, y, yaw = vehicle.pose
    length, width, height = vehicle.half
    top = 2 * height
    braking = int(vehicle.is_braking)
    body_top = top if height > 0.95 else VEHICLE_CLEARANCE + 0.45 * (top - VEHICLE_CLEARANCE) + 0.1
    half = (length, width, (body_top - VEHICLE_CLEARANCE) / 2)
    center = (x, y, (body_top + VEHICLE_CLEARANCE) / 2)
    builder.add(BOX, center, half, VEHICLE, vehicle.color, yaw, VEHICLE_BODY, braking)
    if body_top < top:
        cabin = tuple(ego_to_world((-0.12 * length, 0.0, (top + body_top) / 2), vehicle.pose))
        half = (0.55 * length, 0.86 * width, (top - body_top) / 2)
        builder.add(BOX, cabin, half, VEHICLE, vehicle.color, yaw, VEHICLE_CABIN)


def _add_pedestrian(builder: PrimitiveBuilder, pedestrian: Pedestrian) -> None:
    """Add a body and a head."""
    x, y, yaw = pedestrian.pose
    builder.add(CYLINDER, (x, y, 0.74), (0.26, 0.26, 0.74), PEDESTRIAN, pedestrian.color, yaw, CLOTHES)
    builder.add(ELLIPSOID, (x, y, 1.62), (0.14, 0.14, 0.16), PEDESTRIAN, (206, 164, 136), yaw)


def actor_shapes(vehicles: list[Vehicle], pedestrians: list[Pedestrian]) -> PrimitiveSet:
    """Return the shapes of vehicles and pedestrians; the ego must not be in `vehicles`."""
    builder = PrimitiveBuilder()
    for vehicle in vehicles:
        _add_vehicle(builder, vehicle)
    for pedestrian in pedestrians:
        _add_pedestrian(builder, pedestrian)
    return builder.build()
