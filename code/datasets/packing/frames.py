"""What a packed dataset keeps, where its pixels come from, and the encoding of one frame."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import cv2
import numpy as np

from ..calibration import Calibration, CameraCalibration
from ..labels import IGNORED_ID, compact_depth, read_class_ids, split_traffic_lights
from ..pixels import ImageAugmentation, PixelMap, center_augmentation, pixel_map, smallest_scale
from ..storage import RouteReader, SampleReadError
from ..storage.frame_files import encode_points, encode_supervision

# Rows kept above the highest one that training can see, for interpolation.
MARGIN_ROWS = 2
# Without row filters: label images of constant patches are no larger, and decode in half the time.
_LABEL_OPTIONS = [*(cv2.IMWRITE_PNG_COMPRESSION, 9), *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE)]
_DEPTH_OPTIONS = [*(cv2.IMWRITE_PNG_COMPRESSION, 6), *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE)]
_COLOR_OPTIONS = [cv2.IMWRITE_PNG_COMPRESSION, 6]


@dataclass(frozen=True)
class PackSettings:
    """Options of the packed format.

    Attributes:
        final_size: Height and width of the largest network input that will be trained, pixels. Rows
            that its crops never reach are left out.
        oversampling: Stored scale as a multiple of the smallest that fills ``final_size``; training
            draws scales up to 1.117 times it. Never above full size.
        quality: Of the JPEG images, 1 to 100; without chroma subsampling.
        lossless_color: PNG instead of JPEG.
        whole_image: Keep all rows.
        teacher_levels: Levels of the teacher's maps to keep.
    """

    final_size: tuple[int, int] = (448, 896)
    oversampling: float = 10 / 7
    quality: int = 92
    lossless_color: bool = False
    whole_image: bool = False
    teacher_levels: tuple[int, ...] = (2, 3, 4, 5)

    def __post_init__(self) -> None:
        # the same text in the files, however the levels are listed
        object.__setattr__(self, 'final_size', tuple(self.final_size))
        object.__setattr__(self, 'teacher_levels', tuple(sorted(set(self.teacher_levels))))
        if min(self.final_size) < 1:
            raise ValueError(f'final_size must be positive, is {self.final_size}')
        if not self.oversampling > 0:
            raise ValueError(f'oversampling must be positive, is {self.oversampling}')
        if not 1 <= self.quality <= 100:
            raise ValueError(f'quality must be 1 to 100, is {self.quality}')
        if not set(self.teacher_levels) <= set(range(6)):
            raise ValueError(f'teacher_levels must be from 0 to 5, are {self.teacher_levels}')

    def to_dict(self) -> dict[str, Any]:
        """JSON form, with lists instead of tuples."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def stored_geometry(calibration: Calibration, settings: PackSettings) -> ImageAugmentation:
    """Size and crop of the stored images, from undistorted to stored pixels."""
    image_size = calibration.image_size
    scale = min(1.0, smallest_scale(image_size, settings.final_size) * settings.oversampling)
    height, width = (round(size * scale) for size in image_size)
    top = 0
    if not settings.whole_image:
        highest = center_augmentation(image_size, settings.final_size)
        first_row = highest.top / (highest.resized[0] / image_size[0]) - MARGIN_ROWS
        top = max(0, int(first_row * height / image_size[0]))
    return ImageAugmentation(image_size, (height, width), top, 0, (height - top, width), flip=False)


def packed_calibration(calibration: Calibration, geometry: ImageAugmentation) -> Calibration:
    """The same rig and undistorted images, stored with the size of ``geometry`` and without distortion."""
    scale_x, shift_x, scale_y, shift_y = geometry.scale_and_shift()
    cameras = []
    for camera in calibration.cameras:
        fx, fy, cx, cy = camera.intrinsics
        stored = np.array([fx * scale_x, fy * scale_y, cx * scale_x + shift_x, cy * scale_y + shift_y])
        cameras.append(replace(camera, raw_intrinsics=stored, distortion=np.zeros(5)))
    return replace(calibration, cameras=tuple(cameras), stored_size=geometry.final_size, lights_split=True)


def file_suffixes(calibration: Calibration, settings: PackSettings) -> dict[str, str]:
    """File suffix by folder of a packed route."""
    suffixes = {'measurements': 'json', 'supervision': 'npz', 'lidar': 'npz'}
    for camera in calibration.cameras:
        suffixes[camera.rgb] = 'png' if settings.lossless_color else 'jpg'
        suffixes[camera.depth] = suffixes[camera.seg] = 'png'
    return suffixes


class FramePacker:
    """Packs frames of one dataset, whose calibration is that of the source."""

    def __init__(self, calibration: Calibration, settings: PackSettings) -> None:
        self._calibration, self._settings = calibration, settings
        geometry = stored_geometry(calibration, settings)
        self._positions = {camera.name: pixel_map(camera, geometry) for camera in calibration.cameras}

    def pack(self, reader: RouteReader, frame: int) -> tuple[dict[str, bytes], dict[str, str]]:
        """Read a frame and encode it.

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
            code = positions.sample(reader.depth_code(camera.depth, frame, size))
            return _encode('.png', code if code.dtype == np.uint16 else compact_depth(code), _DEPTH_OPTIONS)

        def classes() -> bytes:
            class_ids = read_class_ids(reader, camera.seg, frame, self._calibration)
            if not self._calibration.lights_split:
                if not images:
                    path = reader.path(camera.seg, frame)
                    raise SampleReadError(path, f'its traffic lights need {camera.rgb}, which is damaged')
                class_ids = split_traffic_lights(class_ids, images[0])
            return _encode('.png', positions.sample(class_ids, outside=IGNORED_ID), _LABEL_OPTIONS)

        keep(camera.rgb, color)
        keep(camera.depth, depth)
        keep(camera.seg, classes)

    def _encode_color(self, image: np.ndarray, positions: PixelMap) -> bytes:
        # cubic: the bilinear sampling of training follows, which blurs
        stored = cv2.cvtColor(positions.sample(image, cv2.INTER_CUBIC), cv2.COLOR_RGB2BGR)
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
