"""What a stored dataset offers, whatever its format and wherever it lies."""

import re
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from .errors import SampleReadError

_SAFE_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9_.+-]*')


def check_name(name: str, what: str) -> str:
    """Admit a folder name that can't lead out of the dataset.

    Args:
        name (str): A town, route or folder name, perhaps from a metadata file.
        what (str): What it names, for the message.

    Returns:
        str: The name.

    Raises:
        SampleReadError: If it holds anything but letters, digits and ``_.+-``,
            or ``..``.
    """
    if not isinstance(name, str) or not _SAFE_NAME.fullmatch(name) or '..' in name:
        raise SampleReadError(
            repr(name), f'refused as the name of a {what}: it could lead out of the dataset'
        )
    return name


class RouteReader(ABC):
    """Reads the files of one route's frames.

    Every method raises :class:`SampleReadError`, naming the file, when the file
    is missing, damaged or not what the format says.

    Args:
        town (str): Town folder, such as ``town01_00``.
        route (str): Route folder in it.
    """

    def __init__(self, town: str, route: str) -> None:
        self.town = check_name(town, 'town')
        self.route = check_name(route, 'route')

    @abstractmethod
    def path(self, folder: str, frame: int) -> str:
        """Name the file of one frame, for messages and metadata.

        Args:
            folder (str): Such as ``rgb_front``.
            frame (int): Frame number.

        Returns:
            str: The full path or address.
        """

    @abstractmethod
    def measurements(self, frame: int) -> dict[str, Any]:
        """Read the ego state of a frame.

        Args:
            frame (int): Frame number.

        Returns:
            dict[str, Any]: As written; ``theta`` may be NaN.
        """

    @abstractmethod
    def supervision(self, frame: int) -> dict[str, Any]:
        """Read the teacher's outputs at a frame.

        Args:
            frame (int): Frame number.

        Returns:
            dict[str, Any]: As written; a map in ``cnn_features`` is None if
                the stored form left it out.
        """

    @abstractmethod
    def points(self, frame: int) -> np.ndarray:
        """Read the LiDAR sweep of a frame.

        Args:
            frame (int): Frame number.

        Returns:
            np.ndarray: (P, 4) float32, ego frame of that frame.
        """

    @abstractmethod
    def rgb(self, folder: str, frame: int, size: tuple[int, int]) -> np.ndarray:
        """Read a colour image.

        Args:
            folder (str): Such as ``rgb_front``.
            frame (int): Frame number.
            size (tuple[int, int]): Height and width that it must have.

        Returns:
            np.ndarray: (H, W, 3) uint8, RGB.
        """

    @abstractmethod
    def depth_code(self, folder: str, frame: int, size: tuple[int, int]) -> np.ndarray:
        """Read a depth image without converting it to metres.

        Args:
            folder (str): Such as ``depth_front``.
            frame (int): Frame number.
            size (tuple[int, int]): Height and width that it must have.

        Returns:
            np.ndarray: (H, W, 3) uint8 or (H, W) uint16, to be read by
                :func:`thinktwice.datasets.pixels.decode_depth`.
        """

    @abstractmethod
    def class_ids(self, folder: str, frame: int, size: tuple[int, int]) -> np.ndarray:
        """Read a semantic image.

        Args:
            folder (str): Such as ``seg_front``.
            frame (int): Frame number.
            size (tuple[int, int]): Height and width that it must have.

        Returns:
            np.ndarray: (H, W) uint8, ids of the simulator.
        """

    @abstractmethod
    def image_bytes(self, folder: str, frame: int) -> bytes:
        """Read an image file without decoding it.

        Args:
            folder (str): Such as ``rgb_front``.
            frame (int): Frame number.

        Returns:
            bytes: Contents of the file.
        """


class DatasetStorage(ABC):
    """A dataset's root: gives readers of routes, and the files beside them."""

    @abstractmethod
    def route(self, town: str, route: str) -> RouteReader:
        """Give a reader of one route; nothing is opened yet.

        Args:
            town (str): Town folder, such as ``town01_00``.
            route (str): Route folder in it.

        Returns:
            RouteReader: The reader.

        Raises:
            SampleReadError: If a name could lead out of the dataset.
        """

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Say whether a file at the root exists.

        Args:
            name (str): Its name relative to the root.

        Returns:
            bool: Whether it can be read.
        """

    @abstractmethod
    def read_bytes(self, name: str) -> bytes:
        """Read a file at the root.

        Args:
            name (str): Its name relative to the root.

        Returns:
            bytes: Contents.

        Raises:
            SampleReadError: If it can't be read (``missing`` says whether it
                does not exist).
        """

    @abstractmethod
    def location(self, name: str = '') -> str:
        """Name a place in the dataset, for messages.

        Args:
            name (str): Relative to the root.

        Returns:
            str: The full path or address.
        """

    def read_text(self, name: str) -> str:
        """Read a UTF-8 text file at the root.

        Args:
            name (str): Its name relative to the root.

        Returns:
            str: Contents.

        Raises:
            SampleReadError: If it can't be read or is not UTF-8.
        """
        try:
            return self.read_bytes(name).decode('utf-8')
        except UnicodeDecodeError as error:
            raise SampleReadError(self.location(name), f'not UTF-8 text ({error})') from error
