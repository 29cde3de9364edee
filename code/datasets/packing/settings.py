"""What a packed dataset keeps, and where its pixels come from."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ..calibration import Calibration, CameraCalibration
from ..pixels import ImageAugmentation, center_augmentation, smallest_scale

MIN_QUALITY, MAX_QUALITY = 1, 100
# Rows kept above the highest one that training can see, for interpolation.
MARGIN_ROWS = 2


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
        if min(self.final_size) < 1:
            raise ValueError(f'final_size must be positive, is {self.final_size}')
        if not self.oversampling > 0:
            raise ValueError(f'oversampling must be positive, is {self.oversampling}')
        if not MIN_QUALITY <= self.quality <= MAX_QUALITY:
            raise ValueError(f'quality must be {MIN_QUALITY} to {MAX_QUALITY}, is {self.quality}')
        if not set(self.teacher_levels) <= set(range(6)):
            raise ValueError(f'teacher_levels must be from 0 to 5, are {self.teacher_levels}')

    def to_dict(self) -> dict[str, Any]:
        """JSON form, with lists instead of tuples."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def stored_geometry(calibration: Calibration, settings: PackSettings) -> ImageAugmentation:
    """Size and crop of the stored images.

    Args:
        calibration: Of the source.
        settings: What to keep.

    Returns:
        From undistorted to stored pixels.
    """
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
    """Calibration of the stored images.

    Args:
        calibration: Of the source.
        geometry: From undistorted to stored pixels.

    Returns:
        The same rig and the same undistorted images, stored in another size and without distortion.
    """
    return replace(
        calibration,
        cameras=tuple(_stored_camera(camera, geometry) for camera in calibration.cameras),
        stored_size=geometry.final_size,
        lights_split=True,
    )


def _stored_camera(camera: CameraCalibration, geometry: ImageAugmentation) -> CameraCalibration:
    scale_x, shift_x, scale_y, shift_y = geometry.scale_and_shift()
    fx, fy, cx, cy = camera.intrinsics
    stored = np.array([fx * scale_x, fy * scale_y, cx * scale_x + shift_x, cy * scale_y + shift_y])
    return replace(camera, raw_intrinsics=stored, distortion=np.zeros(5))
