"""Traffic lights: the two streets of a junction are green in turn."""

from dataclasses import dataclass

import numpy as np

from thinktwice.minitown.world.classes import GREEN, RED, YELLOW
from thinktwice.minitown.world.layout import Layout

YELLOW_TIME = 2.0
CLEAR_TIME = 1.2


@dataclass(frozen=True)
class Program:
    """Green times of the two streets and the phase offset, in seconds."""

    green: tuple[float, float]
    offset: float

    def state(self, axis: int, time: float) -> int:
        """Return `GREEN`, `YELLOW` or `RED` for street `axis` (0 or 1) at `time` seconds."""
        first = self.green[0] + YELLOW_TIME + CLEAR_TIME
        cycle = first + self.green[1] + YELLOW_TIME + CLEAR_TIME
        moment = (time + self.offset) % cycle - (first if axis else 0.0)
        if 0.0 <= moment < self.green[axis]:
            return GREEN
        if 0.0 <= moment < self.green[axis] + YELLOW_TIME:
            return YELLOW
        return RED


class Signals:
    """The lights of a town during one drive."""

    def __init__(self, layout: Layout, rng: np.random.Generator) -> None:
        self._programs = {
            junction.index: Program(
                (float(rng.uniform(4.5, 6.5)), float(rng.uniform(4.5, 6.5))), float(rng.uniform(0, 30))
            )
            for junction in layout.junctions
            if junction.has_lights
        }

    def state(self, junction: int, approach: int, time: float) -> int:
        """Return the state for traffic with a heading of `approach` quarter turns; green without a light."""
        program = self._programs.get(junction)
        return GREEN if program is None else program.state(approach % 2, time)
