"""Overrides and the names of keys, parts and arguments: a misspelling is an error, not a new entry."""

import difflib
from collections.abc import Collection, Iterable, Iterator
from itertools import chain
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import Registry, root
from torch import nn
from torch.utils.data import DataLoader

from thinktwice import registry
from thinktwice.command_line import OverrideText, parse_value
from thinktwice.config.annotations import check_value, parameters_of
from thinktwice.config.keys import READ_KEYS, RUNNER_KEYS
from thinktwice.config.references import is_reference
from thinktwice.errors import ConfigError

BUILDER_ARGUMENTS = {
    'optim_wrapper': ('constructor', 'paramwise_cfg'),
    'param_scheduler': ('convert_to_iter_based', 'epoch_length'),
    'custom_hooks': ('priority',),
    'default_hooks': ('priority',),
}
"""Keys of parts that mmengine reads before it calls their constructors."""
LAYER_KEYS = {'norm_cfg', 'conv_cfg', 'act_cfg', 'upsample_cfg'}
"""Keys whose values name a layer of mmcv."""
LIKENESS = 0.8
"""Ratio of ``difflib`` from which on an unknown name counts as a misspelling of a known one."""

TEXT_KEYS = {'work_dir', 'load_from', 'pretrained_dir', 'experiment_name'}
"""Keys that hold text where a config has them, or None."""

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
        found = node.get(name)
    except (RuntimeError, ValueError):
        return None
    return found if callable(found) else None  # mmengine also takes the name of a module


def _constructor(part: dict) -> Any:
    """What a config dict's ``type`` names; None if nothing does."""
    kind = part['type']
    if not isinstance(kind, str):
        return kind if callable(kind) else None
    return next((found for node in _all_registries() if (found := _find(node, kind)) is not None), None)


def _known_arguments(path: str, part: dict) -> tuple[dict[str, Any], bool]:
    """Annotations of the arguments that a part of the config takes, and whether it takes others, too."""
    if not _is_loader(path) and 'type' not in part:
        return {}, False
    target = DataLoader if _is_loader(path) else _constructor(part)
    annotations, takes_any = parameters_of(target) if target else ({}, True)
    extra = BUILDER_ARGUMENTS.get(path.partition('.')[0], ())
    return annotations | dict.fromkeys(extra, Any), takes_any


def _is_loader(path: str) -> bool:
    """Whether a config dict without a ``type`` holds arguments of torch's loader."""
    return path.endswith('_dataloader')


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
    other keys may be read by the caller of the constructor. A value is refused if it contradicts
    the annotation of its parameter.

    Raises:
        ConfigError: With the dotted key, and similar names or what the value must be.
    """
    for key in sorted(READ_KEYS & cfg.keys()):
        for path, part in _parts(cfg[key], key):
            _check_part(path, part, f'config {cfg.filename}: {path}')
            for name in LAYER_KEYS & part.keys():
                _check_layer(part[name], f'config {cfg.filename}: {path}.{name}')


def _check_layer(layer: Any, where: str) -> None:
    """Check the name of a layer, which mmcv looks up by itself."""
    kind = layer.get('type', nn.Identity) if isinstance(layer, dict) else nn.Identity
    if (_find(registry.MODELS, kind) is None) if isinstance(kind, str) else not callable(kind):
        raise _unknown_part(where, kind)


def _unknown_part(where: str, name: Any) -> ConfigError:
    guesses = close_names(str(name), _registered_names(), 0.6)
    guess = f'Did you mean {" or ".join(guesses)}? ' if guesses else ''
    return ConfigError(
        f'{where}.type: no part is called {name!r}. {guess}'
        'A part of your own has to be imported: name its module in custom_imports'
    )


def _check_part(path: str, part: dict, where: str) -> None:
    if 'type' in part and _constructor(part) is None:
        raise _unknown_part(where, part['type'])
    annotations, takes_any = _known_arguments(path, part)
    for key, value in part.items():
        if key in annotations:
            check_value(f'{where}.{key}', value, annotations[key])
        elif key != 'type' and not takes_any and (guesses := close_names(str(key), annotations)):
            raise ConfigError(f'{where} has no argument {key!r}. Did you mean {" or ".join(guesses)}?')


def _unknown_key(path: str, key: str, known: Collection[str]) -> ConfigError:
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
    """Refuse text for a number, anything but True and False for a switch, and a value for a dict or list."""
    if is_reference(new):
        return
    if isinstance(old, bool) and not isinstance(new, bool):
        raise ConfigError(f'--cfg-options {path}: expected True or False, got {new!r}')
    if isinstance(old, (int, float)) and isinstance(new, str):
        raise ConfigError(f'--cfg-options {path}: expected a number like {old!r}, got {new!r}')
    if isinstance(old, (list, tuple)) and isinstance(new, (bool, int, float, str)):
        raise ConfigError(f'--cfg-options {path}: expected a list like {_short(old)}, got {new!r}')
    if isinstance(old, dict) and new is not None and not isinstance(new, dict):
        raise ConfigError(f'--cfg-options {path}: this is a dict; set one of its keys: {", ".join(old)}')


def _short(values: Any) -> str:
    text = repr(tuple(values))
    return text if len(text) <= 60 else f'{text[:60]}...'


def _present_value(cfg: Config, path: str) -> Any:
    """The entry that an override replaces, None where it adds one.

    Raises:
        ConfigError: There is no such key, and the part that it belongs to takes no such argument.
    """
    node, parents = cfg, ''
    for key in path.split('.'):
        if node is None:
            return None
        if isinstance(node, (dict, Config)) and key not in node:
            known, takes_any = (
                (dict.fromkeys(RUNNER_KEYS), False) if node is cfg else _known_arguments(parents, node)
            )
            if not takes_any and key not in known:
                raise _unknown_key(path, key, known.keys() | node.keys())
            return None
        node, parents = _step(node, key, path), f'{parents}.{key}'.strip('.')
    return node


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
            if present is None and place in TEXT_KEYS:
                present = ''
            new = _read_value(value, present) if isinstance(value, OverrideText) else value
            _check_type(place, present, new)
            _replace(cfg, place.split('.'), new)


def _replace(node: Any, keys: list[str], value: Any) -> Any:
    """Set an entry of a config; a dict is merged into a dict, as in config files.

    Returns:
        ``node``, changed in place; a new one where it is a list, a tuple or None.
    """
    if keys and isinstance(node, (list, tuple)):
        items = list(node)
        items[int(keys[0])] = _replace(items[int(keys[0])], keys[1:], value)
        return type(node)(items)
    if not keys and not isinstance(value, dict):
        return value
    changes = {keys[0]: value} if keys else dict(value)
    if changes.pop('_delete_', False) or not isinstance(node, (dict, Config)):
        node = ConfigDict()
    for key, change in changes.items():
        node[key] = _replace(node.get(key), keys[1:], change)
    return node


def _places(cfg: Config, path: str) -> list[str]:
    """Keys that an override sets: in the tables of the modes, if the config leaves a parent to them."""
    keys, modes = path.split('.'), cfg.get('data_modes')
    for end in range(1, len(keys)):
        parent = '.'.join(keys[:end])
        if find_entry(cfg, parent, {}) is None:
            tables = modes if isinstance(modes, dict) else {}
            places = [f'data_modes.{mode}.{path}' for mode in tables if find_entry(tables[mode], parent)]
            return places or [path]
    return [path]


def find_entry(node: Any, path: str, default: Any = None) -> Any:
    """The entry of nested dicts by its dotted key."""
    for key in path.split('.'):
        if not isinstance(node, (dict, Config)) or key not in node:
            return default
        node = node[key]
    return node
