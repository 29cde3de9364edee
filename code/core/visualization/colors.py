"""Colors used in pictures, RGB 0..255."""

BACKGROUND = (24, 24, 28)
GRID = (60, 60, 66)
TEXT = (235, 235, 235)
EGO = (240, 240, 240)
POINTS = (120, 130, 150)
OBSTACLES = (200, 215, 240)
LOOK = (90, 225, 225)
TRUE = (60, 200, 90)
PREDICTED = (255, 120, 40)
COARSE = (250, 210, 60)
TARGET = (80, 160, 255)


def stage_colors(count: int) -> list[tuple[int, int, int]]:
    """Colors of the stages of a plan, from the coarse to the final one."""
    shares = [stage / (count - 1) if count > 1 else 1.0 for stage in range(count)]
    return [
        (
            round((1 - share) * COARSE[0] + share * PREDICTED[0]),
            round((1 - share) * COARSE[1] + share * PREDICTED[1]),
            round((1 - share) * COARSE[2] + share * PREDICTED[2]),
        )
        for share in shares
    ]
