"""References in configs: ``'${image_size}'`` stands for the value of that key, looked up after overrides.

A Python variable used twice in a config is copied when the file is read, so an
override of the variable would not reach its copies. A reference is followed. In a list, a reference to
None leaves the item out.
"""

import copy
from typing import Any

from mmengine.config import Config

from thinktwice.errors import ConfigError
from thinktwice.registry import REFERENCE, find_references


def _look_up(cfg: Config, path: str, where: str, seen: tuple[str, ...]) -> Any:
    if path in seen:
        raise ConfigError(f'config {where}: references go in a circle: {" -> ".join([*seen, path])}')
    node: Any = cfg
    for key in path.split('.'):
        if isinstance(node, (dict, Config)) and key in node:
            node = node[key]
        elif isinstance(node, (list, tuple)) and key.isdigit() and int(key) < len(node):
            node = node[int(key)]
        else:
            raise ConfigError(f'config {where}: ${{{path}}} refers to a key that the config does not have')
    return _resolve(cfg, copy.deepcopy(node), where, (*seen, path))


def _resolve(cfg: Config, node: Any, where: str, seen: tuple[str, ...] = ()) -> Any:
    if isinstance(node, str):
        match = REFERENCE.match(node)
        return _look_up(cfg, match.group(1), where, seen) if match else node
    if isinstance(node, dict):
        for key, value in node.items():
            node[key] = _resolve(cfg, value, f'{where}.{key}' if where else str(key), seen)
        return node
    if isinstance(node, (list, tuple)):
        values = [(_resolve(cfg, value, f'{where}.{i}', seen), value) for i, value in enumerate(node)]
        if isinstance(node, list):
            return [value for value, before in values if value is not None or before is None]
        return tuple(value for value, _ in values)
    return node


def is_reference(value: Any) -> bool:
    """Whether a value of a config stands for that of another key."""
    return isinstance(value, str) and REFERENCE.match(value) is not None


def referenced_keys(cfg: Config) -> set[str]:
    """Top-level keys that references of an unresolved config lead to."""
    return {key.partition('.')[0] for value in cfg.values() for key in find_references(value)}


def resolve_references(cfg: Config) -> None:
    """Replace every string ``${dotted.key}`` of ``cfg`` by what it refers to, in place.

    Raises:
        ConfigError: A reference leads nowhere or in a circle.
    """
    for key, value in list(cfg.items()):
        cfg[key] = _resolve(cfg, value, key)
