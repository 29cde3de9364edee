"""Checks of ``--cfg-options``: a misspelt key or a wrong type is an error, not a silent new entry."""

import difflib
import inspect
from typing import Any

from mmengine.config import Config, ConfigDict

from thinktwice import registry
from thinktwice.errors import ConfigError

RUNNER_KEYS = frozenset({
    'auto_scale_lr', 'channels_last', 'compile', 'custom_hooks', 'default_hooks', 'ema_momentum', 'env_cfg',
    'experiment_name', 'is_dev', 'is_full', 'launcher', 'load_from', 'log_level', 'log_processor',
    'model_wrapper_cfg', 'param_scheduler', 'pretrained_dir', 'randomness', 'recompute', 'resume',
    'strict_load', 'sync_bn', 'test_cfg', 'trust_checkpoint', 'visualizer', 'work_dir',
})  # fmt: skip
"""Top-level keys that the runner reads even where a config does not have them."""


PART_REGISTRIES = (
    registry.MODELS,
    registry.DATASETS,
    registry.TRANSFORMS,
    registry.DATA_SAMPLERS,
    registry.METRICS,
    registry.HOOKS,
    registry.LOOPS,
    registry.OPTIM_WRAPPERS,
    registry.OPTIMIZERS,
    registry.PARAM_SCHEDULERS,
    registry.VISUALIZERS,
    registry.VISBACKENDS,
)


def _accepted_arguments(part: dict) -> set[str] | None:
    """Constructor arguments of a config dict's ``type``; None if any name may be accepted."""
    for node in PART_REGISTRIES:
        target = node.get(part['type']) if isinstance(part['type'], str) else part['type']
        if target is None:
            continue
        parameters = inspect.signature(target).parameters.values()
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return None
        return {parameter.name for parameter in parameters}
    return None


def _unknown_key(path: str, key: str, known: set[str]) -> ConfigError:
    guesses = difflib.get_close_matches(key, sorted(known), n=3)
    hint = f'Did you mean {" or ".join(guesses)}?' if guesses else f'Known there: {", ".join(sorted(known))}.'
    return ConfigError(f'--cfg-options {path}: the config has no key {key!r}. {hint}')


def _step(node: Any, key: str, path: str) -> Any:
    """The entry ``key`` of a dict, list or tuple of the config."""
    if isinstance(node, (list, tuple)):
        if not key.lstrip('-').isdigit() or not -len(node) <= int(key) < len(node):
            raise ConfigError(
                f'--cfg-options {path}: {key!r} must be an index below {len(node)}, since this is a list'
            )
        return node[int(key)]
    if not isinstance(node, dict):
        raise ConfigError(f'--cfg-options {path}: {key!r} lies inside {node!r}, which is not a dict')
    if key not in node:
        raise _unknown_key(path, key, set(node))
    return node[key]


def _check_type(path: str, old: Any, new: Any) -> None:
    """Refuse text for a number, and what is neither True nor False for a switch."""
    if isinstance(old, bool) and not isinstance(new, bool):
        raise ConfigError(f'--cfg-options {path}: expected True or False, got {new!r}')
    if isinstance(old, (int, float)) and isinstance(new, str):
        raise ConfigError(f'--cfg-options {path}: expected a number like {old!r}, got {new!r}')
    if isinstance(old, dict) and 'type' in old and new is not None and not isinstance(new, dict):
        raise ConfigError(f'--cfg-options {path}: this is a part; set one of its keys: {", ".join(old)}')


def check_override(cfg: Config, path: str, value: Any) -> None:
    """Check one override against the config it will change.

    Args:
        cfg: The config before the override.
        path: Dotted key, list entries by number, for example ``optim_wrapper.optimizer.lr``.
        value: The new value.

    Raises:
        ConfigError: No such key and the part that it belongs to takes no such
            argument, or the value has the wrong type.
    """
    *parents, last = path.split('.')
    node: Any = cfg._cfg_dict
    for key in parents:
        node = _step(node, key, path)
    if not isinstance(node, dict) or last in node:
        _check_type(path, _step(node, last, path), value)
        return
    if not parents and last in RUNNER_KEYS:
        return
    known = set(node) | (RUNNER_KEYS if not parents else set())
    if 'type' in node:
        accepted = _accepted_arguments(node)
        if accepted is None or last in accepted:
            return
        known |= accepted
    raise _unknown_key(path, last, known)


def apply_overrides(cfg: Config, options: dict[str, Any]) -> None:
    """Check and merge the options of the command line into ``cfg``.

    Args:
        cfg: Changed in place.
        options: Dotted key to value, as mmengine's ``DictAction`` parses them.
    """
    for path, value in options.items():
        for place in _places(cfg, path):
            check_override(cfg, place, value)
            cfg.merge_from_dict({place: _as_config(value)})


def _places(cfg: Config, path: str) -> list[str]:
    """Where an override goes: into the tables of all modes, if the config leaves a parent to them."""
    node: Any = cfg._cfg_dict
    for key in path.split('.')[:-1]:
        node = node.get(key, {}) if isinstance(node, dict) else {}
        if node is None:
            return [f'data_modes.{mode}.{path}' for mode in cfg.get('data_modes', {})] or [path]
    return [path]


def _as_config(value: Any) -> Any:
    return ConfigDict(value) if isinstance(value, dict) else value
