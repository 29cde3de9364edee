"""Values of a config against the type annotations of what takes them.

Only what a config can write is judged: None, bools, numbers, texts, lists and dicts. A dict or a name
fits wherever an object is expected, since parts are built from them.
"""

import inspect
import math
import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from thinktwice.errors import ConfigError

ACCURATE = ('thinktwice', 'mmengine', 'torch')
"""Packages whose annotations are relied on; those of mmdet, for one, do not cover all it takes."""
PLAIN: Any = (NoneType, bool, int, float, str, list, tuple, dict)
NAMES = {NoneType: 'None', bool: 'True or False', int: 'a whole number', float: 'a number', str: 'text'}


@dataclass(frozen=True)
class AtLeast:
    """Metadata of an ``Annotated`` number: its lowest value."""

    lowest: float

    def allows(self, value: float) -> bool:
        """Whether a number is within the bound."""
        return value >= self.lowest

    def __str__(self) -> str:
        return f'>= {self.lowest}'


@dataclass(frozen=True)
class AtMost:
    """Metadata of an ``Annotated`` number: its highest value."""

    highest: float

    def allows(self, value: float) -> bool:
        """Whether a number is within the bound."""
        return value <= self.highest

    def __str__(self) -> str:
        return f'<= {self.highest}'


def parameters_of(target: Callable) -> tuple[dict[str, Any], bool]:
    """Annotations of the parameters of a function or class, and whether it takes other names, too.

    Where an annotation is missing or not relied on, it is ``Any``.
    """
    try:
        signature = inspect.signature(target, eval_str=True)
    except (NameError, AttributeError, SyntaxError):  # annotations for type checkers only
        signature = inspect.signature(target)
    except ValueError:  # some types written in C
        return {}, True
    is_accurate = str(getattr(target, '__module__', '')).partition('.')[0] in ACCURATE
    annotations = {}
    for name, parameter in signature.parameters.items():
        is_annotated = is_accurate and parameter.annotation is not parameter.empty
        # a default of None may contradict its annotation, as in `size: int = None`
        default = Literal[None] if parameter.default is None else parameter.annotation
        annotations[name] = Union[parameter.annotation, default] if is_annotated else Any  # noqa: UP007
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    return annotations, takes_any


def check_value(where: str, value: Any, annotation: Any) -> None:
    """Check a value of a config and all values in it.

    Args:
        where: Dotted key of the value, for the message.
        value: A value of a resolved config.
        annotation: A type; those that cannot be judged take any value.

    Raises:
        ConfigError: With the key, what is expected and the value.
    """
    alternatives = _alternatives(annotation)
    fitting = [alternative for alternative in alternatives if _fits(value, alternative)]
    if not fitting:
        expected = ' or '.join(dict.fromkeys(map(_describe, alternatives)))
        raise ConfigError(f'{where} must be {expected}, got {reprlib.repr(value)}')
    if len(fitting) > 1 or not isinstance(value, (dict, list, tuple)):
        return
    kind, arguments = get_origin(fitting[0]) or fitting[0], get_args(fitting[0])
    if is_typeddict(kind):
        hints = get_type_hints(kind, include_extras=True)
        inner = [(key, hints[key]) for key in value if key in hints]
    elif isinstance(value, dict):
        inner = [(key, arguments[1]) for key in value] if len(arguments) == 2 else []
    else:
        types = arguments if _has_length(fitting[0]) else arguments[:1] * len(value)
        inner = list(enumerate(types))
    for key, inner_annotation in inner:
        check_value(f'{where}.{key}' if where else str(key), value[key], inner_annotation)


def _alternatives(annotation: Any) -> list[Any]:
    if get_origin(annotation) in (Union, UnionType):
        return [inner for part in get_args(annotation) for inner in _alternatives(part)]
    return [NoneType if annotation is None else annotation]


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a value is of a type, whatever is in it."""
    kind, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if not isinstance(value, PLAIN):
        return True  # an object that the config's own code made
    if kind is Annotated:
        return _fits(value, arguments[0]) and all(bound.allows(value) for bound in _bounds(annotation))
    if kind is Literal:
        return value in arguments
    if kind in (bool, int, str, NoneType):
        return type(value) is kind
    if kind is float:
        return type(value) is int or (type(value) is float and not math.isnan(value))
    if not isinstance(kind, type) or kind in (Any, object):
        return True
    if isinstance(value, dict):
        return not _is_list(kind)
    if isinstance(value, (list, tuple)):
        return _is_list(kind) and (not _has_length(annotation) or len(value) == len(arguments))
    return isinstance(value, str) and not _is_list(kind) and not issubclass(kind, Mapping)


def _bounds(annotation: Any) -> list[AtLeast | AtMost]:
    return [bound for bound in annotation.__metadata__ if isinstance(bound, (AtLeast, AtMost))]


def _has_length(annotation: Any) -> bool:
    arguments = get_args(annotation)  # mmdet writes Tuple[int] for any length
    return get_origin(annotation) is tuple and len(arguments) > 1 and ... not in arguments


def _is_list(kind: Any) -> bool:
    return kind is Iterable or (issubclass(kind, Iterable) and not issubclass(kind, Mapping))


def _describe(annotation: Any) -> str:
    kind, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if kind is Annotated:
        return f'{_describe(arguments[0])} {" and ".join(map(str, _bounds(annotation)))}'
    if kind is Literal:
        return ' or '.join(map(repr, arguments))
    if kind in NAMES:
        return NAMES[kind]
    if _is_list(kind):
        return f'a list of {len(arguments)}' if _has_length(annotation) else 'a list'
    return 'a dict'
