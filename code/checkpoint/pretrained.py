"""Where the weights of ``init_cfg=dict(type='Pretrained', ...)`` come from: a folder, a cache, the web."""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import get_torchvision_models

from thinktwice.checkpoint import file as checkpoint_io
from thinktwice.errors import ConfigError

TORCHVISION_SCHEMES = ('torchvision://', 'modelzoo://')
WEB_SCHEMES = ('http://', 'https://')
NO_SCHEME = ('',)
SILENT_SECONDS = 30.0
"""A server that says nothing for so long is given up: some networks swallow packets."""


def use_pretrained_folder(folder: Path, model: Mapping[str, Any]) -> None:
    """Let mmengine, and so each registered part, take pretrained weights from ``folder`` first.

    What is not there is taken from torch's cache, or downloaded into it. mmengine's own loaders
    know no folder, wait without end, and open downloaded files as programs; these read data only.

    Args:
        folder: Holds the files under the names that they have on the web, ``resnet50-0676ba61.pth``.
        model: The model's config, to name the key whose weights can't be had.
    """
    keys = _keys_of_weights(model, 'model')

    def load_from_pretrained(filename: str, map_location: Any) -> dict:  # its name appears in mmengine's log
        path = _find(filename, folder, keys.get(filename, 'pretrained weights'))
        return checkpoint_io.load_checkpoint(path, map_location or 'cpu')

    schemes = [*TORCHVISION_SCHEMES, *WEB_SCHEMES, *NO_SCHEME]
    CheckpointLoader.register_scheme(schemes, load_from_pretrained, force=True)


def _keys_of_weights(node: Any, path: str) -> dict[str, str]:
    """Names of pretrained weights, and the key of the config that asks for each."""
    if isinstance(node, Mapping) and node.get('type') == 'Pretrained' and 'checkpoint' in node:
        return {node['checkpoint']: path}
    children = node.items() if isinstance(node, Mapping) else enumerate(node)
    return {
        name: key
        for entry, child in children
        if isinstance(child, (Mapping, list, tuple))
        for name, key in _keys_of_weights(child, f'{path}.{entry}').items()
    }


def _find(filename: str, folder: Path, key: str) -> Path:
    """The file that ``checkpoint=filename`` stands for."""
    if filename.startswith(WEB_SCHEMES):
        return _fetch(filename, folder, key)
    if filename.startswith(TORCHVISION_SCHEMES):
        name, urls = filename.partition('://')[2], get_torchvision_models()
        if name not in urls:
            raise ConfigError(f'{key}: torchvision has no weights named {name!r}')
        return _fetch(urls[name], folder, key)
    path = Path(filename).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f'{key}: {path} does not exist')
    return path


def _fetch(url: str, folder: Path, key: str) -> Path:
    """Path of the file behind ``url``: in ``folder``, in torch's cache, or downloaded to there."""
    name = url.rpartition('/')[2].partition('?')[0]
    cache = Path(torch.hub.get_dir()) / 'checkpoints'
    for place in (folder, cache):
        if (place / name).is_file():
            return place / name
    # the end of a name is the beginning of the file's hash, as everywhere on torch's servers
    hash_prefix = torch.hub.HASH_REGEX.search(name)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _given_up_when_silent():
            torch.hub.download_url_to_file(
                url, str(cache / name), hash_prefix.group(1) if hash_prefix else None, progress=False
            )
    except (OSError, RuntimeError, ValueError) as error:  # no network or disk; another hash; no such address
        raise ConfigError(
            f'{key}: {name} is neither in {folder} nor in {cache}, and cannot be downloaded ({error}). '
            f'Put {url} into {folder}, or start from random weights with --cfg-options {key}=None'
        ) from error
    return cache / name


@contextmanager
def _given_up_when_silent() -> Iterator[None]:
    """Time limit of new connections; torch's download takes none as an argument."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
