"""Bird's-eye view: LiDAR, plans, target point. x (forward) points up, y (right) right."""

import cv2
import numpy as np

from thinktwice.core.visualization import colors

Color = tuple[int, int, int]


class BEVCanvas:
    """Image of the ground around the ego vehicle, with a 10 m grid.

    Args:
        x_range: Range along x (forward), meters.
        y_range: Range along y (right), meters.
        pixels_per_meter: Resolution.

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
        """Convert ego positions to pixels.

        Args:
            positions: (..., 2) x forward, y right, meters.

        Returns:
            (..., 2) column and row, float.
        """
        columns = (positions[..., 1] - self.y_range[0]) * self.scale
        rows = (self.x_range[1] - positions[..., 0]) * self.scale
        return np.stack([columns, rows], axis=-1)

    def _draw_grid(self, step: int) -> None:
        for meters in range(-200, 201, step):
            for line in ([[meters, -200], [meters, 200]], [[-200, meters], [200, meters]]):
                self.draw_line(np.array(line, float), colors.GRID, 1)

    def draw_line(self, positions: np.ndarray, color: Color, thickness: int) -> None:
        """Draw a line through positions (P, 2)."""
        pixels = self.to_pixels(positions).round().astype(np.int32)
        cv2.polylines(self.image, [pixels], False, color, thickness, cv2.LINE_AA)

    def draw_crosses(self, positions: np.ndarray, color: Color) -> None:
        """Draw a small cross at each position (P, 2)."""
        for column, row in self.to_pixels(positions).round().astype(int).tolist():
            cv2.drawMarker(self.image, (column, row), color, cv2.MARKER_CROSS, 7, 1)

    def draw_points(self, points: np.ndarray, color: Color = colors.POINTS) -> None:
        """Draw a point cloud (P, 2 or more), one pixel per point."""
        pixels = self.to_pixels(points[:, :2]).astype(np.int64)
        height, width = self.image.shape[:2]
        inside = (pixels >= 0).all(axis=1) & (pixels[:, 0] < width) & (pixels[:, 1] < height)
        columns, rows = pixels[inside].T
        self.image[rows, columns] = color

    def draw_ego(self, length: float = 4.7, width: float = 1.9) -> None:
        """Draw the outline of the ego vehicle; sizes in meters."""
        corners = [[length, -width], [length, width], [-length, width], [-length, -width], [length, -width]]
        self.draw_line(np.array(corners) / 2, colors.EGO, 2)

    def draw_plan(self, waypoints: np.ndarray, color: Color, thickness: int = 2) -> None:
        """Draw a plan (K, 2) starting at the ego origin, with a dot at each waypoint."""
        self.draw_line(np.concatenate([np.zeros((1, 2)), waypoints]), color, thickness)
        for column, row in self.to_pixels(waypoints).round().astype(int):
            cv2.circle(self.image, (int(column), int(row)), 2 + thickness, color, -1, cv2.LINE_AA)

    def draw_target(self, position: np.ndarray) -> None:
        """Draw the target point (2,), clamped to the image."""
        limits = np.array([self.x_range, self.y_range]).T
        column, row = self.to_pixels(np.clip(position, limits[0] + 0.5, limits[1] - 0.5)).round().astype(int)
        cv2.drawMarker(
            self.image, (int(column), int(row)), colors.TARGET, cv2.MARKER_DIAMOND, 16, 2, cv2.LINE_AA
        )
