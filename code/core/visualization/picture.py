"""Picture of one sample and of what a model predicts for it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from mmengine.evaluator import BaseMetric
from torch import Tensor

from thinktwice.core.evaluation import OpenLoopMetric, PerceptionMetric
from thinktwice.core.evaluation.metrics import sample_metrics
from thinktwice.core.visualization import colors
from thinktwice.core.visualization.bev import BEVCanvas
from thinktwice.core.visualization.cameras import attention_per_pixel, draw_attention, draw_plan_on_image
from thinktwice.core.visualization.data import (
    CLASS_COLORS,
    DEPTH_LIMIT,
    camera_of,
    color_classes,
    color_depths,
    describe_sample,
    resized,
)
from thinktwice.core.visualization.looks import SamplingPoints
from thinktwice.files import make_folder
from thinktwice.model_code.control import beta_mode_action

CAMERA_KEYS = ('img', 'intrinsics', 'cam2ego', 'ida_mats')
"""Inputs that are needed to draw into images."""
DPI = 100
MARGIN = 14
GAP = 6
TITLE_HEIGHT = 58
CAMERAS_WIDTH, CAMERAS_HEIGHT = 1200, 940
"""Largest size of the block of camera images, pixels."""
CAMERAS_MIN_WIDTH = 430
"""Width that the captions need, pixels."""
CAPTION_HEIGHT = 22
LINE_HEIGHT = 19
BEV_SIZE = 540
SIDE_WIDTH = 620
"""Width of the block beside the cameras, pixels."""
GROUND_HEIGHT = 0.3
"""LiDAR points that are higher are drawn as obstacles, meters."""
ACTIONS = (('throttle / brake', 'brake', 'throttle'), ('steering', 'left', 'right'))
"""Name and both ends of each control."""

Painter = Callable[[int], list[np.ndarray]]
"""Draws the images of all cameras, each of the given width."""


class _Page:
    """A figure that is laid out in pixels from its top left corner."""

    def __init__(self, width: int, height: int) -> None:
        # video codecs need even sizes
        self.size = (width + width % 2, height + height % 2)
        self.figure = Figure(
            (self.size[0] / DPI, self.size[1] / DPI), dpi=DPI, facecolor=_rgb(colors.BACKGROUND)
        )
        self._canvas = FigureCanvasAgg(self.figure)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes at a place of the page."""
        W, H = self.size
        axes = self.figure.add_axes((left / W, 1 - (top + height) / H, width / W, height / H))
        axes.set_facecolor(_rgb(colors.BACKGROUND))
        axes.tick_params(colors=_rgb(colors.TEXT), labelsize=8, length=3)
        for spine in axes.spines.values():
            spine.set_color(_rgb(colors.GRID))
        return axes

    def image(self, image: np.ndarray, left: float, top: float) -> None:
        """Show an image pixel by pixel."""
        axes = self.axes(left, top, image.shape[1], image.shape[0])
        axes.imshow(image, interpolation='nearest', aspect='auto')
        axes.axis('off')

    def text(self, text: str, left: float, top: float, size: float = 9.5, **options: Any) -> None:
        """Write a line."""
        options = {'color': _rgb(colors.TEXT), 'va': 'center', **options}
        self.figure.text(left / self.size[0], 1 - top / self.size[1], text, fontsize=size, **options)

    def legend(self, handles: Sequence[Any], left: float, top: float, columns: int) -> None:
        """Write a legend in columns."""
        self.figure.legend(
            handles=handles,
            loc='upper left',
            bbox_to_anchor=(left / self.size[0], 1 - top / self.size[1]),
            ncols=columns,
            fontsize=8.5,
            frameon=False,
            labelcolor=_rgb(colors.TEXT),
            borderaxespad=0,
            borderpad=0,
            labelspacing=0.45,
            columnspacing=1.6,
            handlelength=1.6,
        )

    def render(self) -> np.ndarray:
        """The page (H, W, 3) uint8 RGB."""
        self._canvas.draw()
        return np.asarray(self._canvas.buffer_rgba())[..., :3].copy()


def draw_sample(
    sample: Mapping[str, Any],
    prediction: Mapping[str, Tensor],
    metrics: Sequence[BaseMetric] = (),
    points: SamplingPoints | None = None,
) -> np.ndarray:
    """Draw one sample and what a model predicts for it.

    Shown are the plan of each stage in the cameras and from above, depth and classes beside their labels,
    the attention of the look modules, the distributions of the controls, and the errors. What the sample or
    the prediction does not have is left out.

    Args:
        sample: Sample of a dataset: ``inputs``, ``metas`` and optionally ``targets``.
        prediction: From :func:`thinktwice.apis.predict`, at least ``waypoints`` (K, 2).
        metrics: Metrics of the evaluation, which give the errors; by default those of the plan. Predicted
            depth needs a ``PerceptionMetric``.
        points: Where the model looks.

    Returns:
        (H, W, 3) uint8 RGB; the size depends on the fields only, not on their values.
    """
    metrics = metrics or [OpenLoopMetric()]
    errors = sample_metrics(metrics, sample, dict(prediction))
    stages = _stages(prediction)
    rows = _camera_rows(sample, stages, prediction, metrics, points, errors)
    classes = _class_names(metrics, prediction, sample)
    cameras = _CameraBlock(sample, rows, classes, errors)
    handles = _legend_entries(sample, stages, points)
    tables = _error_lines(errors, len(stages))
    has_actions = 'alpha' in prediction
    legend_height = -(-len(handles) // 4) * LINE_HEIGHT + 8
    side_height = legend_height + BEV_SIZE + 44 + 220 * has_actions + (len(tables) + 1) * LINE_HEIGHT
    height = TITLE_HEIGHT + max(cameras.height, side_height) + MARGIN
    page = _Page(cameras.width + SIDE_WIDTH + MARGIN, height)
    name, _, description = describe_sample(sample).partition('   ')
    page.text(name, MARGIN, 18, size=11, weight='bold')
    page.text(description, MARGIN, 40, size=10.5)
    cameras.draw(page)

    left, top = cameras.width + MARGIN, TITLE_HEIGHT
    page.legend(handles, left, top, columns=4)
    top += legend_height
    _draw_bev(page.axes(left + 46, top, BEV_SIZE, BEV_SIZE), sample, stages, points)
    top += BEV_SIZE + 44
    if has_actions:
        width = (SIDE_WIDTH - 40 - MARGIN) / 2
        for index in range(2):
            axes = page.axes(left + 10 + index * (width + 24), top + 34, width - 24, 140)
            _draw_action(axes, index, prediction, sample.get('targets') or {}, errors)
        top += 220
    for number, cells in enumerate(tables):
        for text, column in zip(cells, (0, 150, 240) if len(cells) > 1 else (0,), strict=True):
            page.text(text, left + 10 + column, top + (number + 0.5) * LINE_HEIGHT)
    return page.render()


def save_picture(image: np.ndarray, path: str | Path) -> None:
    """Write an RGB image as PNG.

    Args:
        image: (H, W, 3) uint8 RGB.
        path: File to write; its folder is created if necessary.

    Raises:
        OSError: The file can't be written.
    """
    path = Path(path)
    make_folder(path.parent)
    is_encoded, content = cv2.imencode('.png', image[..., ::-1])
    if not is_encoded:
        raise OSError(f'cannot encode {path}')
    path.write_bytes(content.tobytes())


def _rgb(color: tuple[int, int, int]) -> tuple[float, float, float]:
    red, green, blue = color
    return red / 255, green / 255, blue / 255


def _stages(prediction: Mapping[str, Tensor]) -> np.ndarray:
    """Plans of all stages (stages, K, 2), the final one last."""
    stages = prediction.get('waypoints_stages', prediction['waypoints'][None])
    return stages.detach().cpu().numpy()


def _stage_titles(count: int) -> list[str]:
    return ['plan'] if count == 1 else ['coarse plan', *(f'refined {layer}' for layer in range(1, count))]


def _camera_rows(
    sample: Mapping[str, Any],
    stages: np.ndarray,
    prediction: Mapping[str, Tensor],
    metrics: Sequence[BaseMetric],
    points: SamplingPoints | None,
    errors: Mapping[str, float],
) -> list[tuple[str, Painter]]:
    """Caption and painter of each row of camera images."""
    inputs, targets = sample['inputs'], sample.get('targets') or {}
    if any(key not in inputs for key in CAMERA_KEYS) or inputs['img'].ndim != 5:
        return []
    true = [targets['waypoints'].cpu().numpy()] if 'waypoints' in targets else []
    shades = [colors.TRUE] * len(true) + colors.stage_colors(len(stages))
    plans = list(zip([*true, *stages], shades, strict=True))
    rows: list[tuple[str, Painter]] = [('plans on the ground', partial(_paint_plans, inputs, plans))]
    if points is not None and points.cameras is not None:
        rows.append(
            ('look at the images: attention of the last layer', partial(_paint_looks, inputs, points))
        )
    perception = next((metric for metric in metrics if isinstance(metric, PerceptionMetric)), None)
    if perception is not None and 'depth_logits' in prediction:
        depth = perception.expected_depth(prediction['depth_logits'][None])[0]
        title = 'depth, predicted'
        if 'perception/depth_error' in errors:
            title += f': mean error {errors["perception/depth_error"]:.1f} m'
        if 'perception/depth_error_near' in errors:
            title += f', within {perception.near:g} m {errors["perception/depth_error_near"]:.1f} m'
        rows.append((title, partial(_paint, color_depths, depth)))
    if 'depth' in targets:
        rows.append(('depth, label', partial(_paint, color_depths, targets['depth'])))
    if 'seg_logits' in prediction:
        classes = prediction['seg_logits'].argmax(dim=1).byte()
        rows.append(('classes, predicted', partial(_paint, color_classes, classes)))
    if 'seg' in targets:
        rows.append(('classes, label', partial(_paint, color_classes, targets['seg'])))
    return rows


def _key_frame(inputs: Mapping[str, Tensor], width: int) -> list[np.ndarray]:
    images = inputs['img'][-1].clamp(0, 255).byte().cpu().numpy()
    interpolation = cv2.INTER_AREA if width < images.shape[-1] else cv2.INTER_LINEAR
    return [resized(channels.transpose(1, 2, 0), width, interpolation) for channels in images]


def _paint_plans(
    inputs: Mapping[str, Tensor], plans: Sequence[tuple[np.ndarray, tuple[int, int, int]]], width: int
) -> list[np.ndarray]:
    tiles = _key_frame(inputs, width)
    for index, tile in enumerate(tiles):
        camera = camera_of(inputs, -1, index)
        for waypoints, color in plans:
            draw_plan_on_image(tile, waypoints, color, camera, width / inputs['img'].shape[-1])
    return tiles


def _paint_looks(inputs: Mapping[str, Tensor], points: SamplingPoints, width: int) -> list[np.ndarray]:
    tiles = _key_frame(inputs, width)
    assert points.cameras is not None and points.locations is not None and points.weights is not None
    parts = []
    for index in range(len(tiles)):
        selected = points.cameras == index
        parts.append((points.locations[selected].numpy(), points.weights[selected].double().numpy()))
    largest = max(attention_per_pixel(tiles[0].shape[:2], *part).max() for part in parts) or 1.0
    return [draw_attention(tile, *part, largest) for tile, part in zip(tiles, parts, strict=True)]


def _paint(color: Callable[[np.ndarray], np.ndarray], maps: Tensor, width: int) -> list[np.ndarray]:
    return [resized(color(image), width, cv2.INTER_NEAREST) for image in maps.detach().cpu().numpy()]


class _CameraBlock:
    """Images of all cameras: a column per camera, or several lines of cameras if that makes them larger."""

    def __init__(
        self,
        sample: Mapping[str, Any],
        rows: Sequence[tuple[str, Painter]],
        classes: Sequence[str],
        errors: Mapping[str, float],
    ) -> None:
        self.rows = rows
        self.width = self.height = 0
        self.entries: list[Patch] = []
        if not rows:
            return
        count, _, H, W = sample['inputs']['img'].shape[1:]
        self.aspect, self.names = W / H, _camera_names(sample, count)
        sizes = {columns: self._tile_width(columns, count) for columns in range(1, count + 1)}
        self.columns = max(sizes, key=lambda columns: sizes[columns])
        self.tile_width = sizes[self.columns]
        self.tile_height = round(H * self.tile_width / W)
        self.lines = -(-count // self.columns)
        self.width = max(self._left(self.columns) - GAP + MARGIN, CAMERAS_MIN_WIDTH)
        self.top = TITLE_HEIGHT
        self.height = self.lines * len(rows) * (self.tile_height + CAPTION_HEIGHT)
        for number, name in enumerate(classes):
            iou = errors.get(f'perception/{name}/iou')
            label = name.replace('_', ' ') + ('' if iou is None else f'  {iou:.2f}')
            self.entries.append(Patch(color=_rgb(CLASS_COLORS[number % len(CLASS_COLORS)]), label=label))
        self.has_iou = any(key.endswith('/iou') for key in errors)
        self.has_depth = any(title.startswith('depth') for title, _ in rows)
        self.legend_columns = max(self.width // 150, 1)
        self.height += 46 * self.has_depth
        if self.entries:
            self.height += LINE_HEIGHT * (1 - (-len(self.entries) // self.legend_columns)) + 8

    def _tile_width(self, columns: int, count: int) -> int:
        height = CAMERAS_HEIGHT / (-(-count // columns) * len(self.rows)) - CAPTION_HEIGHT
        return int(min(CAMERAS_WIDTH / columns, max(height, 8) * self.aspect))

    def _left(self, column: int) -> int:
        return MARGIN + column * (self.tile_width + GAP)

    def draw(self, page: _Page) -> None:
        """Draw images, captions and legends."""
        if not self.rows:
            return
        top = self.top
        tiles = [paint(self.tile_width) for _, paint in self.rows]
        for line in range(self.lines):
            members = range(line * self.columns, min((line + 1) * self.columns, len(self.names)))
            for (title, _), images in zip(self.rows, tiles, strict=True):
                if images is tiles[0]:
                    for column, index in enumerate(members):
                        text = f'{self.names[index]} camera' + (f': {title}' if column == 0 else '')
                        page.text(text, self._left(column), top + CAPTION_HEIGHT / 2)
                else:
                    page.text(title, MARGIN, top + CAPTION_HEIGHT / 2)
                top += CAPTION_HEIGHT
                for column, index in enumerate(members):
                    page.image(images[index], self._left(column), top)
                top += self.tile_height
        if self.has_depth:
            self._draw_depth_scale(page, top + 8)
            top += 46
        if self.entries:
            heading = 'classes' + (
                ', with the intersection over union in this sample' if self.has_iou else ''
            )
            page.text(heading, MARGIN, top + 12)
            page.legend(self.entries, MARGIN, top + 4 + LINE_HEIGHT, self.legend_columns)

    def _draw_depth_scale(self, page: _Page, top: int) -> None:
        page.text('depth', MARGIN, top + 6)
        meters = np.linspace(1e-3, DEPTH_LIMIT, 240)
        axes = page.axes(MARGIN + 50, top, min(300, self.width - 3 * MARGIN - 50), 12)
        axes.imshow(color_depths(meters)[None], extent=(0, DEPTH_LIMIT, 0, 1), aspect='auto')
        axes.set_yticks([])
        ticks = (0, 10, 20, 30, 40, 50, 60)
        axes.set_xticks(ticks, [*map(str, ticks[:-1]), '60 m'])


def _camera_names(sample: Mapping[str, Any], count: int) -> list[str]:
    """Names of the cameras, by the folders of their images."""
    paths = sample['metas'].get('image_paths') or []
    if len(paths) != count:
        return [str(index) for index in range(count)]
    return [Path(path).parent.name.removeprefix('rgb_').replace('_', ' ') for path in paths]


def _class_names(
    metrics: Sequence[BaseMetric], prediction: Mapping[str, Tensor], sample: Mapping[str, Any]
) -> list[str]:
    """Names of the classes, if any are drawn."""
    if 'seg_logits' not in prediction and 'seg' not in (sample.get('targets') or {}):
        return []
    return next((names for metric in metrics if (names := (metric.dataset_meta or {}).get('classes'))), [])


def _legend_entries(
    sample: Mapping[str, Any], stages: np.ndarray, points: SamplingPoints | None
) -> list[Line2D]:
    def entry(label: str, color: tuple[int, int, int], width: float, marker: Any) -> Line2D:
        fill = 'none' if marker == 'D' else _rgb(color)
        style: dict[str, Any] = dict(color=_rgb(color), marker=marker, markerfacecolor=fill, linewidth=width)
        return Line2D([], [], markersize=6, markeredgewidth=1.5, label=label, **style)

    entries = []
    if 'waypoints' in (sample.get('targets') or {}):
        entries.append(entry('expert', colors.TRUE, 3, 'o'))
    for title, color in zip(_stage_titles(len(stages)), colors.stage_colors(len(stages)), strict=True):
        entries.append(entry(title, color, 1.5, 'o'))
    if 'target_point' in sample['inputs']:
        entries.append(entry('target point', colors.TARGET, 0, 'D'))
    if 'points' in sample['inputs']:
        entries.append(entry('LiDAR, ground', colors.POINTS, 0, '.'))
        entries.append(entry('LiDAR, higher', colors.OBSTACLES, 0, '.'))
    if points is not None and points.lidar is not None:
        entries.append(entry('look at the LiDAR', colors.LOOK, 0, '+'))
    return entries


def _draw_bev(
    axes: Axes, sample: Mapping[str, Any], stages: np.ndarray, points: SamplingPoints | None
) -> None:
    """Draw LiDAR, plans and target point from above, with axes in meters."""
    inputs, targets = sample['inputs'], sample.get('targets') or {}
    true = [targets['waypoints'].cpu().numpy()] if 'waypoints' in targets else []
    canvas = _canvas_around(np.concatenate([*true, *stages]))
    if 'points' in inputs:
        cloud = inputs['points'].cpu().numpy()
        cloud = cloud[cloud[:, 4] == 0]
        is_high = cloud[:, 2] > GROUND_HEIGHT
        canvas.draw_points(cloud[~is_high])
        canvas.draw_points(cloud[is_high], colors.OBSTACLES)
    if points is not None and points.lidar is not None:
        canvas.draw_crosses(points.lidar.numpy(), colors.LOOK)
    canvas.draw_ego()
    if 'target_point' in inputs:
        canvas.draw_target(inputs['target_point'].cpu().numpy())
    for waypoints in true:
        canvas.draw_plan(waypoints, colors.TRUE, thickness=4)
    *earlier, last = zip(stages, colors.stage_colors(len(stages)), strict=True)
    for waypoints, color in earlier:
        canvas.draw_plan(waypoints, color, thickness=1)
    canvas.draw_plan(*last)
    axes.imshow(canvas.image, extent=(*canvas.y_range, *canvas.x_range), aspect='auto')
    axes.set_xlabel('to the right of the ego vehicle, m', color=_rgb(colors.TEXT), fontsize=9)
    axes.set_ylabel('ahead, m', color=_rgb(colors.TEXT), fontsize=9, labelpad=2)


def _canvas_around(waypoints: np.ndarray, smallest: float = 38.4, largest: float = 200.0) -> BEVCanvas:
    """Square canvas of the ground, 8 m behind the vehicle and ahead as far as plans go; sizes in meters."""
    reach = np.abs(np.nan_to_num(waypoints)).max(axis=0) + 2.0
    needed = max(reach[0] + 8.0, 2 * reach[1])
    size = min(smallest if needed <= smallest else 10.0 * np.ceil(needed / 10), largest)
    return BEVCanvas((-8.0, size - 8.0), (-size / 2, size / 2), BEV_SIZE / size)


def _draw_action(
    axes: Axes,
    index: int,
    prediction: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    errors: Mapping[str, float],
) -> None:
    """Draw the distributions of a control in [-1, 1], and their modes, which are the actions."""
    name, low, high = ACTIONS[index]
    curves = [('predicted', colors.PREDICTED, prediction['alpha'], prediction['beta'], prediction['action'])]
    if 'action_alpha' in targets:
        alpha, beta = targets['action_alpha'], targets['action_beta']
        curves.append(('expert', colors.TRUE, alpha, beta, beta_mode_action(alpha, beta)))
    middles = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    texts = []
    for title, color, alpha, beta, action in curves:
        parameters = [float(values[index]) for values in (alpha, beta)]
        distribution = torch.distributions.Beta(*torch.tensor(parameters, dtype=torch.float64))
        density = distribution.log_prob(middles).exp() / 2  # per unit of the action, which is twice as wide
        axes.plot(2 * middles - 1, density, color=_rgb(color), lw=1.5)
        axes.fill_between(2 * middles - 1, density, color=_rgb(color), alpha=0.25, lw=0)
        axes.axvline(float(action[index]), color=_rgb(color), lw=1, ls='--')
        texts.append(f'{title} {float(action[index]):+.2f}')
    key = ('current_throttle_brake_offset', 'current_steer_offset')[index]
    if f'open_loop/{key}' in errors:
        texts.append(f'error {errors[f"open_loop/{key}"]:.2f}')
    text = _rgb(colors.TEXT)
    axes.set_title(f'{name}\n{", ".join(texts)}', color=text, fontsize=8.5, loc='left')
    axes.set_xlim(-1, 1)
    axes.set_ylim(bottom=0)
    axes.set_xticks([-1, 0, 1], [f'-1 {low}', '0', f'{high} 1'])
    for label, alignment in zip(axes.get_xticklabels(), ('left', 'center', 'right'), strict=True):
        label.set(horizontalalignment=alignment)
    axes.set_yticks([])
    axes.set_ylabel('probability density', color=text, fontsize=8, labelpad=3)


def _error_lines(errors: Mapping[str, float], num_stages: int) -> list[tuple[str, ...]]:
    """Cells of the table of errors; a dash for those that are unknown."""

    def cell(name: str) -> str:
        return f'{errors[name]:.2f} m' if name in errors else '-'

    lines: list[tuple[str, ...]] = [('errors in this sample', 'ADE', 'FDE')]
    titles = _stage_titles(num_stages)
    for number, title in enumerate(titles):
        part = '' if num_stages == 1 else f'refined_{number}/' if number else 'coarse/'
        lines.append((title, cell(f'open_loop/{part}ade'), cell(f'open_loop/{part}fde')))
    along, across = cell('open_loop/longitudinal_offset'), cell('open_loop/lateral_offset')
    lines.append((f'{titles[-1]}: {along} longitudinal, {across} lateral',))
    return lines
