"""What a stored dataset offers, whatever its format and wherever it is."""

import re
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from .errors import SampleReadError

_SAFE_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9_.+-]*')


def check_name(name: str, what: str) -> str:
    """Refuse a folder name that could lead out of the dataset.

    Args:
        name: A town, route or folder name, perhaps from a metadata file.
        what: What it names, for the message.

    Returns:
        The name.

    Raises:
        SampleReadError: It holds anything but letters, digits and ``_.+-``, or ``..``.
    """
    if not isinstance(name, str) or not _SAFE_NAME.fullmatch(name) or '..' in name:
        raise SampleReadError(
            repr(name), f'refused as the name of a {what}: it could lead out of the dataset'
        )
    return name


class RouteReader(ABC):
    """Reads the files of one route's frames.

    ``folder`` is that of the recorded format, such as ``rgb_front``; ``size`` is the (height, width)
    that an image must have. Every method that reads raises :class:`SampleReadError`, naming the file,
    if the file is missing, damaged or not as the format requires.

    Args:
        town: Town folder, such as ``town01_00``.
        route: Route folder in it.
    """

    def __init__(self, town: str, route: str) -> None:
        self.town = check_name(town, 'town')
        self.route = check_name(route, 'route')

    @abstractmethod
    def path(self, folder: str, frame: int) -> str:
        """Full path or address of the file of one frame, for messages and metadata."""

    @abstractmethod
    def measurements(self, frame: int) -> dict[str, Any]:
        """Read the ego state of a frame as recorded; ``theta`` may be NaN."""

    @abstractmethod
    def supervision(self, frame: int) -> dict[str, Any]:
        """Read the teacher's outputs of a frame; a map in ``cnn_features`` is None if it was not stored."""

    @abstractmethod
    def points(self, frame: int) -> np.ndarray:
        """Read the LiDAR sweep of a frame: (P, 4) float32, ego frame of that frame."""

    @abstractmethod
    def rgb(self, folder: str, frame: int, size: tuple[int, int]) -> np.ndarray:
        """Read a color image: (H, W, 3) uint8, RGB."""

    @abstractmethod
    def depth_code(self, folder: str, frame: int, size: tuple[int, int]) -> np.ndarray:
        """Read a depth image without converting it to meters.

        Returns:
            (H, W, 3) uint8 or (H, W) uint16, for :func:`thinktwice.datasets.pixels.decode_depth`.
        """

    @abstractmethod
    def class_ids(self, folder: str, frame: int, size: tuple[int, int]) -> np.ndarray:
        """Read a semantic image: (H, W) uint8, class ids of the simulator."""

    @abstractmethod
    def image_bytes(self, folder: str, frame: int) -> bytes:
        """Read an image file without decoding it."""


class DatasetStorage(ABC):
    """The root of a dataset: gives readers of routes and the files beside them."""

    @abstractmethod
    def route(self, town: str, route: str) -> RouteReader:
        """Give a reader of one route; nothing is opened yet.

        Raises:
            SampleReadError: A name could lead out of the dataset.
        """

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether there is a file of this name at the root."""

    @abstractmethod
    def read_bytes(self, name: str) -> bytes:
        """Read a file at the root.

        Raises:
            SampleReadError: It cannot be read; ``missing`` says whether it does not exist.
        """

    @abstractmethod
    def location(self, name: str = '') -> str:
        """Full path or address of a name relative to the root, for messages."""
