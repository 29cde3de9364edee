"""Encoding of one frame for a packed route."""

import json
from collections.abc import Callable

import cv2
import numpy as np

from ..calibration import Calibration, CameraCalibration
from ..pixels import (
    PixelMap,
    check_class_ids,
    compact_depth,
    pixel_map,
    split_traffic_lights,
    warp_class_ids,
    warp_depth_code,
)
from ..storage import RouteReader, SampleReadError
from ..storage.compact import encode_points, encode_supervision
from .settings import PackSettings, stored_geometry

# Without row filters: label images of constant patches are no larger, and decode in half the time.
_LABEL_OPTIONS = [*(cv2.IMWRITE_PNG_COMPRESSION, 9), *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE)]
_DEPTH_OPTIONS = [*(cv2.IMWRITE_PNG_COMPRESSION, 6), *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE)]
_COLOR_OPTIONS = [cv2.IMWRITE_PNG_COMPRESSION, 6]


def file_suffixes(calibration: Calibration, settings: PackSettings) -> dict[str, str]:
    """File suffix by folder of a packed route.

    Args:
        calibration: Of the source.
        settings: What to keep.
    """
    suffixes = {'measurements': 'json', 'supervision': 'npz', 'lidar': 'npz'}
    for camera in calibration.cameras:
        suffixes[camera.rgb] = 'png' if settings.lossless_color else 'jpg'
        suffixes[camera.depth] = suffixes[camera.seg] = 'png'
    return suffixes


class FramePacker:
    """Packs frames of one dataset.

    Args:
        calibration: Of the source.
        settings: What to keep.
    """

    def __init__(self, calibration: Calibration, settings: PackSettings) -> None:
        self._calibration, self._settings = calibration, settings
        geometry = stored_geometry(calibration, settings)
        self._positions = {camera.name: pixel_map(camera, geometry) for camera in calibration.cameras}

    def pack(self, reader: RouteReader, frame: int) -> tuple[dict[str, bytes], dict[str, str]]:
        """Read a frame and encode it.

        Args:
            reader: Of the source.
            frame: Frame number.

        Returns:
            Contents by folder, and the reason for each folder whose file in the source is unusable.

        Raises:
            ValueError: The teacher's outputs hold something else than numbers.
        """
        contents: dict[str, bytes] = {}
        damage: dict[str, str] = {}

        def keep(folder: str, make: Callable[[], bytes]) -> None:
            try:
                contents[folder] = make()
            except SampleReadError as error:
                damage[folder] = str(error)

        keep('measurements', lambda: json.dumps(reader.measurements(frame)).encode())
        levels = self._settings.teacher_levels
        keep('supervision', lambda: encode_supervision(reader.supervision(frame), levels))
        keep('lidar', lambda: encode_points(reader.points(frame)))
        for camera in self._calibration.cameras:
            self._pack_camera(reader, camera, frame, keep)
        return contents, damage

    def _pack_camera(
        self,
        reader: RouteReader,
        camera: CameraCalibration,
        frame: int,
        keep: Callable[[str, Callable[[], bytes]], None],
    ) -> None:
        positions, size = self._positions[camera.name], self._calibration.stored_size
        images: list[np.ndarray] = []

        def color() -> bytes:
            images.append(reader.rgb(camera.rgb, frame, size))
            return self._encode_color(images[0], positions)

        def depth() -> bytes:
            code = warp_depth_code(reader.depth_code(camera.depth, frame, size), positions)
            return _encode('.png', code if code.dtype == np.uint16 else compact_depth(code), _DEPTH_OPTIONS)

        def classes() -> bytes:
            class_ids = reader.class_ids(camera.seg, frame, size)
            path, is_split = reader.path(camera.seg, frame), self._calibration.lights_split
            try:
                check_class_ids(class_ids, is_split)
            except ValueError as error:
                raise SampleReadError(path, str(error)) from error
            if not is_split:
                if not images:
                    raise SampleReadError(path, f'its traffic lights need {camera.rgb}, which is damaged')
                class_ids = split_traffic_lights(class_ids, images[0])
            return _encode('.png', warp_class_ids(class_ids, positions), _LABEL_OPTIONS)

        keep(camera.rgb, color)
        keep(camera.depth, depth)
        keep(camera.seg, classes)

    def _encode_color(self, image: np.ndarray, positions: PixelMap) -> bytes:
        # cubic: the bilinear sampling of training follows, which blurs
        stored = cv2.remap(
            image, positions.x, positions.y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_CONSTANT, borderValue=0
        )
        stored = cv2.cvtColor(stored, cv2.COLOR_RGB2BGR)
        if self._settings.lossless_color:
            return _encode('.png', stored, _COLOR_OPTIONS)
        options = [
            *(cv2.IMWRITE_JPEG_QUALITY, self._settings.quality),
            *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
            *(cv2.IMWRITE_JPEG_OPTIMIZE, 1),
        ]
        return _encode('.jpg', stored, options)


def _encode(extension: str, image: np.ndarray, options: list[int]) -> bytes:
    return cv2.imencode(extension, image, options)[1].tobytes()
