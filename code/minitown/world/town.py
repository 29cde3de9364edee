"""A town: streets, ground map and static shapes, built once per number."""

import re
from dataclasses import dataclass
from functools import lru_cache

from thinktwice.errors import ConfigError
from thinktwice.minitown.world.ground_map import draw_ground
from thinktwice.minitown.world.layout import Layout, build_layout
from thinktwice.minitown.world.primitives import PrimitiveSet
from thinktwice.minitown.world.scene import GroundMap
from thinktwice.minitown.world.scenery import LightHead, build_scenery

TOWN_NUMBERS = (1, 2, 3, 4, 5, 6, 7, 10)
_NAME = re.compile(r'town(\d\d)_(val|\d\d)')


@dataclass(frozen=True)
class Town:
    """The static part of the world."""

    layout: Layout
    ground: GroundMap
    shapes: PrimitiveSet
    light_heads: list[LightHead]


@lru_cache(maxsize=4)
def build_town(number: int) -> Town:
    """Return town `number` (1..7 or 10); later calls return the same object."""
    layout = build_layout(number)
    shapes, heads = build_scenery(layout)
    return Town(layout, draw_ground(layout), shapes, heads)


def parse_town_name(name: str) -> tuple[int, int]:
    """Return the town's number and its index (0..11, or 99 for ``val``).

    Raises:
        ConfigError: The name is not ``townNN_XX`` with NN in 01..07, 10 and XX in val, 00..11.
    """
    match = _NAME.fullmatch(name)
    number = int(match[1]) if match else 0
    index = 99 if match and match[2] == 'val' else int(match[2]) if match else -1
    if number not in TOWN_NUMBERS or not (0 <= index <= 11 or index == 99):
        raise ConfigError(
            f'unknown town {name!r}: use townNN_XX with NN in 01..07, 10 and XX in val, 00..11, '
            'for example town01_00'
        )
    return number, index
