"""Bird's-eye view of one sample: LiDAR, plans, target point. x forward is up, y right is right."""

from collections.abc import Mapping

import cv2
import numpy as np
from torch import Tensor

from thinktwice.core.visualization import colors

Color = tuple[int, int, int]


class BEVCanvas:
    """An image with a meter grid of the ground around the ego vehicle.

    Args:
        x_range: Extent ahead, meters (behind is negative).
        y_range: Extent to the right, meters.
        pixels_per_meter: Scale.

    Attributes:
        image: (H, W, 3) uint8 RGB.
    """

    def __init__(
        self,
        x_range: tuple[float, float] = (-8.0, 30.4),
        y_range: tuple[float, float] = (-19.2, 19.2),
        pixels_per_meter: float = 12.0,
    ) -> None:
        self.x_range, self.y_range, self.scale = x_range, y_range, pixels_per_meter
        height = round((x_range[1] - x_range[0]) * pixels_per_meter)
        width = round((y_range[1] - y_range[0]) * pixels_per_meter)
        self.image = np.full((height, width, 3), colors.BACKGROUND, np.uint8)
        self._draw_grid(step=10)

    def to_pixels(self, positions: np.ndarray) -> np.ndarray:
        """Column and row of ego positions.

        Args:
            positions: (..., 2) x forward, y right, meters.

        Returns:
            (..., 2) column, row, float.
        """
        columns = (positions[..., 1] - self.y_range[0]) * self.scale
        rows = (self.x_range[1] - positions[..., 0]) * self.scale
        return np.stack([columns, rows], axis=-1)

    def _draw_grid(self, step: int) -> None:
        for meters in range(-200, 201, step):
            for line in ([[meters, -200], [meters, 200]], [[-200, meters], [200, meters]]):
                self._line(np.array(line, float), colors.GRID, 1)

    def _line(self, positions: np.ndarray, color: Color, thickness: int) -> None:
        pixels = self.to_pixels(positions).round().astype(np.int32)
        cv2.polylines(self.image, [pixels], False, color, thickness, cv2.LINE_AA)

    def draw_points(self, points: np.ndarray, color: Color = colors.POINTS) -> None:
        """Dots for a cloud (P, 2 or more), one pixel each."""
        pixels = self.to_pixels(points[:, :2]).astype(np.int64)
        height, width = self.image.shape[:2]
        inside = (pixels >= 0).all(axis=1) & (pixels[:, 0] < width) & (pixels[:, 1] < height)
        columns, rows = pixels[inside].T
        self.image[rows, columns] = color

    def draw_ego(self, length: float = 4.7, width: float = 1.9) -> None:
        """The ego vehicle's outline, sizes in meters."""
        corners = [[length, -width], [length, width], [-length, width], [-length, -width], [length, -width]]
        self._line(np.array(corners) / 2, colors.EGO, 2)

    def draw_plan(self, waypoints: np.ndarray, color: Color, thickness: int = 2) -> None:
        """A plan (K, 2) from the ego origin on, with a dot at each waypoint."""
        self._line(np.concatenate([np.zeros((1, 2)), waypoints]), color, thickness)
        for column, row in self.to_pixels(waypoints).round().astype(int):
            cv2.circle(self.image, (int(column), int(row)), 2 + thickness, color, -1, cv2.LINE_AA)

    def draw_target(self, position: np.ndarray) -> None:
        """The navigation target (2,), moved to the border if it lies outside."""
        limits = np.array([self.x_range, self.y_range]).T
        column, row = self.to_pixels(np.clip(position, limits[0] + 0.5, limits[1] - 0.5)).round().astype(int)
        cv2.drawMarker(
            self.image, (int(column), int(row)), colors.TARGET, cv2.MARKER_DIAMOND, 16, 2, cv2.LINE_AA
        )


def draw_bev(
    inputs: Mapping[str, Tensor],
    prediction: Mapping[str, Tensor],
    targets: Mapping[str, Tensor] | None = None,
    canvas: BEVCanvas | None = None,
) -> np.ndarray:
    """Bird's-eye view of one sample.

    Args:
        inputs: ``points`` (P, 5) and ``target_point`` (2,), ego meters.
        prediction: ``waypoints`` (K, 2) and, if there, ``waypoints_stages`` (L + 1, K, 2).
        targets: ``waypoints`` (K, 2), or None.
        canvas: Empty canvas to draw on, None for the default extent.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    canvas = canvas or BEVCanvas()
    points = inputs['points'].cpu().numpy()
    canvas.draw_points(points[points[:, 4] == 0])
    canvas.draw_ego()
    canvas.draw_target(inputs['target_point'].cpu().numpy())
    if 'waypoints_stages' in prediction:
        canvas.draw_plan(prediction['waypoints_stages'][0].cpu().numpy(), colors.COARSE, thickness=1)
    if targets is not None:
        canvas.draw_plan(targets['waypoints'].cpu().numpy(), colors.TRUE, thickness=3)
    canvas.draw_plan(prediction['waypoints'].cpu().numpy(), colors.PREDICTED)
    return canvas.image
