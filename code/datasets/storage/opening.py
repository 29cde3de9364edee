"""Telling the two formats of datasets apart."""

import os

from .base import DatasetStorage
from .packed import PackedStorage, is_packed
from .raw import FileReader, RawStorage


def open_storage(root: str | os.PathLike, backend_args: dict | None = None) -> DatasetStorage:
    """Open a dataset, recorded or packed.

    Args:
        root: Folder or address of the dataset. A packed dataset must be in a local or mounted folder.
        backend_args: Arguments of mmengine's file backend (``dict(backend='lmdb', db_path=...)``, ...);
            None chooses by the prefix of ``root``.

    Returns:
        Opens files when they are first read; can be sent to worker processes.

    Raises:
        SampleReadError: It was packed in another version of the format.
    """
    root = os.fspath(root)
    if FileReader(root, backend_args).is_local and is_packed(root):
        return PackedStorage(root)
    return RawStorage(root, backend_args)
