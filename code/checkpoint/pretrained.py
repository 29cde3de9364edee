"""Where pretrained weights of ``init_cfg`` are looked for: in a folder, in torch's cache, on the web."""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import get_torchvision_models

from thinktwice.checkpoint.file import load_checkpoint
from thinktwice.errors import ConfigError

TORCHVISION_SCHEMES = ('torchvision://', 'modelzoo://')
WEB_SCHEMES = ('http://', 'https://')
NO_SCHEME = ('',)
#: Time limit for an answer of a server, seconds: some networks drop packets without an error.
TIMEOUT_SECONDS = 30.0


def use_pretrained_folder(folder: Path, model: Mapping[str, Any]) -> None:
    """Make mmengine, and so every registered part, look for pretrained weights in ``folder`` first.

    What is not there is taken from torch's cache, or downloaded into it. mmengine's own loaders
    have no such folder, no time limit, and unpickle downloaded files; these load data only.

    Args:
        folder: Folder of files with the names of their URLs, for example ``resnet50-0676ba61.pth``.
        model: The model's config, to name the key of weights that are not found.
    """
    keys = _keys_of_weights(model, 'model')

    def load_from_pretrained(filename: str, map_location: Any) -> dict:  # mmengine logs this name
        path = _find(filename, folder, keys.get(filename, 'pretrained weights'))
        return load_checkpoint(path, map_location or 'cpu')

    schemes = [*TORCHVISION_SCHEMES, *WEB_SCHEMES, *NO_SCHEME]
    CheckpointLoader.register_scheme(schemes, load_from_pretrained, force=True)


def _keys_of_weights(node: Any, path: str) -> dict[str, str]:
    """Names of pretrained weights, and the config key of each."""
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
    """The file of ``url`` in ``folder``, else in torch's cache, downloaded if it is not there."""
    name = url.rpartition('/')[2].partition('?')[0]
    cache = Path(torch.hub.get_dir()) / 'checkpoints'
    for place in (folder, cache):
        if (place / name).is_file():
            return place / name
    # names on torch's servers end in the first digits of the file's hash
    hash_prefix = torch.hub.HASH_REGEX.search(name)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _connection_timeout():
            torch.hub.download_url_to_file(
                url, str(cache / name), hash_prefix.group(1) if hash_prefix else None, progress=False
            )
    except (OSError, RuntimeError, ValueError) as error:  # network or disk; hash; URL
        raise ConfigError(
            f'{key}: {name} is neither in {folder} nor in {cache}, and cannot be downloaded ({error}). '
            f'Put {url} into {folder}, or start from random weights with --cfg-options {key}=None'
        ) from error
    return cache / name


@contextmanager
def _connection_timeout() -> Iterator[None]:
    """Set a time limit for new connections; torch's download function has no argument for it."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
