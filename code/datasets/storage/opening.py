"""Finding out which format a dataset has."""

import os

from .base import DatasetStorage
from .raw import RawStorage


def open_storage(root: str | os.PathLike, backend_args: dict | None = None) -> DatasetStorage:
    """Open a dataset, whatever its format.

    Args:
        root (str | os.PathLike): Folder or address of the dataset.
        backend_args (dict | None): Arguments of mmengine's file backend
            (``dict(backend='lmdb', db_path=...)``, ...); None chooses by the
            prefix of ``root``.

    Returns:
        DatasetStorage: Opens files when they are asked for, and travels to
            worker processes.
    """
    return RawStorage(os.fspath(root), backend_args)
