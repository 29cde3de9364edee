"""Overrides and the names of keys, parts and arguments: a misspelling is an error, not a new entry."""

import difflib
import inspect
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import Registry, root
from torch.utils.data import DataLoader

from thinktwice import registry
from thinktwice.command_line import OverrideText, parse_value
from thinktwice.config.references import is_reference
from thinktwice.errors import ConfigError

RUNNER_KEYS = frozenset({
    'auto_scale_lr', 'channels_last', 'compile', 'custom_hooks', 'default_hooks', 'ema_momentum', 'env_cfg',
    'experiment_name', 'is_dev', 'is_full', 'launcher', 'load_from', 'log_level', 'log_processor',
    'model_wrapper_cfg', 'param_scheduler', 'pretrained_dir', 'randomness', 'recompute', 'resume',
    'strict_load', 'sync_bn', 'test_cfg', 'trust_checkpoint', 'visualizer', 'work_dir',
})  # fmt: skip
"""Top-level keys that the runner reads even where a config does not have them."""
PART_KEYS = frozenset({
    'model', 'optim_wrapper', 'test_dataloader', 'test_evaluator', 'train_cfg', 'train_dataloader', 'val_cfg',
    'val_dataloader', 'val_evaluator',
})  # fmt: skip
"""Top-level keys that the runner reads and that a config has to have for it."""
READ_KEYS = RUNNER_KEYS | PART_KEYS | {'custom_imports', 'data_modes', 'default_scope'}
LIKENESS = 0.8
"""Ratio of ``difflib`` from which on an unknown name counts as a misspelling of a known one."""

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


def close_names(name: str, known: Iterable[str], likeness: float = LIKENESS) -> list[str]:
    """Up to three known names that ``name`` may be a misspelling of, the closest first."""
    by_lower_case = {candidate.lower(): candidate for candidate in sorted(known)}
    matches = difflib.get_close_matches(name.lower(), by_lower_case, n=3, cutoff=likeness)
    return [by_lower_case[match] for match in matches]


def _find(node: Registry, name: str) -> Any:
    """What a registry has under a name; None if nothing, also where mmengine raises for it."""
    try:
        return node.get(name)
    except RuntimeError:
        return None


def _accepted_arguments(part: dict) -> set[str] | None:
    """Constructor arguments of a config dict's ``type``; None if any name may be accepted."""
    kind = part['type']
    for node in PART_REGISTRIES:
        target = _find(node, kind) if isinstance(kind, str) else kind
        if target is None:
            continue
        parameters = inspect.signature(target).parameters.values()
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return None
        return {parameter.name for parameter in parameters}
    return None


def _is_loader(key: str) -> bool:
    return key.endswith('_dataloader')


def _loader_arguments() -> set[str] | None:
    """Arguments of torch's loader, which a config dict of one names without a ``type``."""
    return set(inspect.signature(DataLoader).parameters)


def _all_registries() -> Iterator[Registry]:
    """Registries of parts first, then all others."""
    yield from PART_REGISTRIES
    for module in (registry, root):
        yield from (node for node in vars(module).values() if isinstance(node, Registry))


def _registered_names() -> set[str]:
    """Names as a config writes them: those of other projects are prefixed with their scope."""
    names = set(chain.from_iterable(node.module_dict for node in _all_registries()))
    for node in vars(root).values():
        if isinstance(node, Registry):
            for scope, child in node.children.items():
                names |= {f'{scope}.{name}' for name in child.module_dict}
    return names


def _parts(node: Any, path: str) -> Iterator[tuple[str, dict]]:
    """All dicts inside ``node`` with their dotted keys.

    Except ``norm_cfg`` and the like, which OpenMMLab's modules build by other rules.
    """
    if isinstance(node, dict):
        yield path, node
        for key, value in node.items():
            if not str(key).endswith('_cfg'):
                yield from _parts(value, f'{path}.{key}')
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _parts(value, f'{path}.{index}')


def check_parts(cfg: Config) -> None:
    """Check names of parts and of their arguments in a resolved config, before anything is built.

    A key is refused if the constructor has no such parameter but one with a similar name;
    other keys may be read by the caller of the constructor.

    Raises:
        ConfigError: With the dotted key and similar names.
    """
    for key in sorted(READ_KEYS & cfg.keys()):
        for path, part in _parts(cfg[key], key):
            _check_part(f'config {cfg.filename}: {path}', part, _is_loader(path))


def _check_part(where: str, part: dict, is_loader: bool) -> None:
    if is_loader:
        accepted = _loader_arguments()
    elif isinstance(part.get('type'), str):
        if not any(_find(node, part['type']) is not None for node in _all_registries()):
            guesses = close_names(part['type'], _registered_names(), 0.6)
            guess = f'Did you mean {" or ".join(guesses)}? ' if guesses else ''
            raise ConfigError(
                f'{where}.type: no part is called {part["type"]!r}. {guess}'
                'A part of your own has to be imported: name its module in custom_imports'
            )
        accepted = _accepted_arguments(part)
    else:
        return
    for key in part.keys() - {'type'} - (accepted or part.keys()):
        if guesses := close_names(key, accepted or ()):
            raise ConfigError(f'{where} has no argument {key!r}. Did you mean {" or ".join(guesses)}?')


def _unknown_key(path: str, key: str, known: set[str]) -> ConfigError:
    guesses = close_names(key, known, likeness=0.6)
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
    if not isinstance(node, (dict, Config)):
        raise ConfigError(f'--cfg-options {path}: {key!r} lies inside {node!r}, which is not a dict')
    if key not in node:
        raise _unknown_key(path, key, set(node))
    return node[key]


def _check_type(path: str, old: Any, new: Any) -> None:
    """Refuse text for a number, and anything but True and False for a switch."""
    if isinstance(old, bool) and not isinstance(new, bool):
        raise ConfigError(f'--cfg-options {path}: expected True or False, got {new!r}')
    if isinstance(old, (int, float)) and isinstance(new, str):
        raise ConfigError(f'--cfg-options {path}: expected a number like {old!r}, got {new!r}')
    if isinstance(old, (list, tuple)) and isinstance(new, (bool, int, float, str)) and not is_reference(new):
        raise ConfigError(f'--cfg-options {path}: expected a list like {_short(old)}, got {new!r}')
    if isinstance(old, dict) and 'type' in old and new is not None and not isinstance(new, dict):
        raise ConfigError(f'--cfg-options {path}: this is a part; set one of its keys: {", ".join(old)}')


def _short(values: Any) -> str:
    text = repr(tuple(values))
    return text if len(text) <= 60 else f'{text[:60]}...'


def _present_value(cfg: Config, path: str) -> Any:
    """The entry that an override replaces, None where it adds one.

    Raises:
        ConfigError: There is no such key, and the part that it belongs to takes no such argument.
    """
    *parents, last = path.split('.')
    if parents and parents[0] in RUNNER_KEYS and parents[0] not in cfg:
        return None
    node: Any = cfg
    for key in parents:
        node = _step(node, key, path)
    if not isinstance(node, (dict, Config)) or last in node:
        return _step(node, last, path)
    if not parents and last in RUNNER_KEYS:
        return None
    known = set(node) | (RUNNER_KEYS if not parents else set())
    if parents and (_is_loader(parents[-1]) or 'type' in node):
        accepted = _loader_arguments() if _is_loader(parents[-1]) else _accepted_arguments(node)
        if accepted is None or last in accepted:
            return None
        known |= accepted
    raise _unknown_key(path, last, known)


def _read_value(text: str, present: Any) -> Any:
    """Value of an override as typed: text stays text, with its blanks and commas, where the config has text.

    ``None``, ``True``, ``False`` and values in brackets or quotes are what they are in Python there, too.
    """
    value = parse_value(text)
    if not isinstance(present, str) or is_reference(present):
        return value
    return value if value is None or isinstance(value, bool) or text[:1] in tuple('\'"([{') else str(text)


def apply_overrides(cfg: Config, options: dict[str, Any]) -> None:
    """Check overrides and merge them into ``cfg``.

    Args:
        cfg: Changed in place.
        options: Dotted key (list entries by number) to value, for example ``optim_wrapper.optimizer.lr``;
            an ``OverrideText`` is read by the type of what it replaces.

    Raises:
        ConfigError: There is no such key, or the value has the wrong type.
    """
    for path, value in options.items():
        for place in _places(cfg, path):
            present = _present_value(cfg, place)
            new = _read_value(value, present) if isinstance(value, OverrideText) else value
            _check_type(place, present, new)
            cfg.merge_from_dict({place: ConfigDict(new) if isinstance(new, dict) else new})


def _places(cfg: Config, path: str) -> list[str]:
    """Keys that an override sets: in the tables of all modes, if the config leaves a parent to them."""
    node: Any = cfg
    for key in path.split('.')[:-1]:
        node = node.get(key, {}) if isinstance(node, (dict, Config)) else {}
        if node is None:
            return [f'data_modes.{mode}.{path}' for mode in cfg.get('data_modes', {})] or [path]
    return [path]
