"""Resize, crop and flip of one camera ("image data augmentation", ida) and its exact matrix."""

from dataclasses import dataclass

import numpy as np

# 0.6255 / 0.56 of the paper's configuration: the range of the training scale as
# a multiple of the smallest scale that fills the final image.
SCALE_RANGE = (1.0, 0.6255 / 0.56)


@dataclass(frozen=True)
class ImageAugmentation:
    """Resize, then crop, then flip.

    Attributes:
        image_size: Height and width before, pixels.
        resized: Height and width after resizing.
        top: First row kept by the crop.
        left: First column kept by the crop.
        final_size: Height and width after the crop.
        flip: Whether the image is finally flipped left to right.
    """

    image_size: tuple[int, int]
    resized: tuple[int, int]
    top: int
    left: int
    final_size: tuple[int, int]
    flip: bool

    def scale_and_shift(self) -> tuple[float, float, float, float]:
        """Map from input pixels to output pixels, as scale and shift per axis.

        Integers are pixel centers. (The 2023 code ignored the rounding of the
        size and the half-pixel shifts, and flipped around the wrong column: up
        to 1.2 pixels off.)

        Returns:
            ``s_x, t_x, s_y, t_y`` with u' = s_x u + t_x and v' = s_y v + t_y.
        """
        scale_y, scale_x = (r / i for r, i in zip(self.resized, self.image_size, strict=True))
        shift_x = 0.5 * scale_x - 0.5 - self.left
        shift_y = 0.5 * scale_y - 0.5 - self.top
        if self.flip:
            scale_x, shift_x = -scale_x, self.final_size[1] - 1 - shift_x
        return scale_x, shift_x, scale_y, shift_y

    def matrix(self) -> np.ndarray:
        """The same map as a (4, 4) float64 matrix acting on (u, v, any, 1).

        Row and column 2 are those of the identity.
        """
        scale_x, shift_x, scale_y, shift_y = self.scale_and_shift()
        matrix = np.diag([scale_x, scale_y, 1.0, 1.0])
        matrix[:2, 3] = shift_x, shift_y
        return matrix


def smallest_scale(image_size: tuple[int, int], final_size: tuple[int, int]) -> float:
    """Smallest scale at which the resized image covers the final one: max(H'/H, W'/W).

    Args:
        image_size: Height and width (H, W) before.
        final_size: Height and width (H', W') after.
    """
    return max(final / before for final, before in zip(final_size, image_size, strict=True))


def _resized(image_size: tuple[int, int], scale: float) -> tuple[int, int]:
    # The small term prevents 0.29 * 100 = 28.999... from losing a pixel.
    height, width = (int(size * scale + 1e-6) for size in image_size)
    return height, width


def center_augmentation(image_size: tuple[int, int], final_size: tuple[int, int]) -> ImageAugmentation:
    """The fixed resize and crop of evaluation: bottom edge kept, centered, no flip.

    Args:
        image_size: Height and width before.
        final_size: Height and width after.
    """
    resized = _resized(image_size, smallest_scale(image_size, final_size))
    top, left = resized[0] - final_size[0], int((resized[1] - final_size[1]) / 2)
    return ImageAugmentation(image_size, resized, top, left, final_size, flip=False)


def draw_augmentation(
    rng: np.random.Generator,
    image_size: tuple[int, int],
    final_size: tuple[int, int],
    scale_range: tuple[float, float] = SCALE_RANGE,
    flip_probability: float = 0.5,
) -> ImageAugmentation:
    """Draw the resize, crop and flip of one camera in training; the bottom edge is kept.

    Always draws exactly three numbers from the generator.

    Args:
        rng: Random number generator.
        image_size: Height and width before.
        final_size: Height and width after.
        scale_range: Range of the scale, as multiples of :func:`smallest_scale`,
            each at least 1.
        flip_probability: Probability of a left-right flip.
    """
    base = smallest_scale(image_size, final_size)
    scale, position, coin = rng.uniform(*scale_range), rng.uniform(), rng.uniform()
    resized = _resized(image_size, base * scale)
    return ImageAugmentation(
        image_size,
        resized,
        top=resized[0] - final_size[0],
        left=int(position * (resized[1] - final_size[1])),
        final_size=final_size,
        flip=bool(coin < flip_probability),
    )
