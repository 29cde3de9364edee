"""MP4 files."""

from pathlib import Path

import cv2
import numpy as np

from thinktwice.errors import WriteError
from thinktwice.files import make_folder


class Movie:
    """Writes an MP4 file.

    Args:
        path: File to write; its folder is made.
        frequency: Frames per second.
    """

    def __init__(self, path: Path, frequency: float) -> None:
        self._path = path
        self._frequency = frequency
        self._file: cv2.VideoWriter | None = None
        self._frames = 0

    def write(self, frame: np.ndarray) -> None:
        """Add a frame (H, W, 3) uint8 RGB, of the size of the first one.

        Raises:
            WriteError: The file cannot be written.
        """
        if self._file is None:
            make_folder(self._path.parent)
            codec = cv2.VideoWriter.fourcc(*'mp4v')
            self._file = cv2.VideoWriter(str(self._path), codec, self._frequency, frame.shape[1::-1])
        if not self._file.isOpened():
            raise WriteError(f'cannot write the video {self._path}: check the permissions of its folder')
        self._file.write(np.ascontiguousarray(frame[..., ::-1]))
        self._frames += 1

    def close(self) -> None:
        """Finish the file.

        Raises:
            WriteError: Frames are missing in it.
        """
        if self._file is None:
            return
        self._file.release()
        # OpenCV reports a full disk neither by an exception nor by a return value
        written = cv2.VideoCapture(str(self._path)).get(cv2.CAP_PROP_FRAME_COUNT)
        if written < self._frames:
            raise WriteError(f'the video {self._path} lacks frames: free some space on its disk')
