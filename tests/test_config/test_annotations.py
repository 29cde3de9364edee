"""Values of configs are judged by type annotations as a reader of both would judge them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Literal, TypedDict

import pytest
import torch
from torch import Tensor, nn

from thinktwice.config.annotations import AtLeast, AtMost, check_value, parameters_of
from thinktwice.errors import ConfigError


class Options(TypedDict, total=False):
    depth: int
    names: list[str]


@pytest.mark.parametrize(
    ('value', 'annotation'),
    [
        (1, int),
        (1, float),
        (float('inf'), float),
        (None, int | None),
        ('a', Literal['a', 'b']),
        ([1, 2], tuple[int, int]),
        ((1, 2, 3), Sequence[int]),
        ((), tuple[int, ...]),
        ([], Sequence[int]),
        ((1, 2, 3), tuple[int]),  # mmdet's way to write it
        (dict(type='ResNet'), nn.Module),
        ('ResNet', nn.Module | dict),
        (1, Annotated[int, AtLeast(1)]),
        (dict(depth=1, other='x'), Options),
        (dict(a=None), dict[str, int | None]),
        (1e-3, float | Tensor),
        ('f', Callable[[int], int]),
        (nn.Linear(1, 1), dict),  # an object is what a config's own code made
        (nn.Linear(1, 1), int),
        (3, Any),
        (3, object),
        (3, 'an unknown name'),
    ],
)
def test_value_fits(value, annotation):
    check_value('key', value, annotation)


@pytest.mark.parametrize(
    ('value', 'annotation', 'message'),
    [
        (True, int, 'key must be a whole number, got True'),
        (1.0, int, 'key must be a whole number, got 1.0'),
        (1, bool, 'key must be True or False, got 1'),
        (float('nan'), float, 'key must be a number, got nan'),
        ('1', float | None, "key must be a number or None, got '1'"),
        (None, str, 'key must be text, got None'),
        ('c', Literal['a', 'b'], "key must be 'a' or 'b', got 'c'"),
        ('ab', Sequence[str], "key must be a list, got 'ab'"),
        ([1, 2, 3], tuple[int, int], r'key must be a list of 2, got \[1, 2, 3\]'),
        ([1, 'a'], tuple[int, int], "key.1 must be a whole number, got 'a'"),
        ([[1], ['a']], Sequence[Sequence[int]], "key.1.0 must be a whole number, got 'a'"),
        ({}, Sequence[int], 'key must be a list, got {}'),
        ([], nn.Module, r'key must be a dict, got \[\]'),
        (2, nn.Module, 'key must be a dict, got 2'),
        (0, Annotated[int, AtLeast(1)], 'key must be a whole number >= 1, got 0'),
        (5, Annotated[int, AtLeast(1), AtMost(4)], 'key must be a whole number >= 1 and <= 4, got 5'),
        (dict(depth='x'), Options, "key.depth must be a whole number, got 'x'"),
        (dict(names=[1]), Options | None, 'key.names.0 must be text, got 1'),
        (dict(a='x'), dict[str, int], "key.a must be a whole number, got 'x'"),
        ('x' * 1000, int, 'key must be a whole number, got .{1,60}$'),
    ],
)
def test_value_does_not_fit(value, annotation, message):
    with pytest.raises(ConfigError, match=message):
        check_value('key', value, annotation)


def test_parameters_of_a_class_and_a_function():
    annotations, takes_any = parameters_of(torch.optim.AdamW)
    assert not takes_any
    check_value('lr', 1e-3, annotations['lr'])
    with pytest.raises(ConfigError, match='lr must be a number'):
        check_value('lr', 'fast', annotations['lr'])

    def own(size: int, *, name: str = None, **others: Any) -> None: ...  # type: ignore[assignment]

    assert parameters_of(dict) == ({}, True)  # written in C, its parameters are not known
    assert parameters_of(partial(own, 3))[1]
    annotations, takes_any = parameters_of(own)
    assert takes_any
    assert annotations['size'] is Any  # a user's own annotations may say less than is taken
    own.__module__ = 'thinktwice.example'
    annotations, _ = parameters_of(own)
    check_value('name', None, annotations['name'])
    with pytest.raises(ConfigError, match='name must be text or None, got 3'):
        check_value('name', 3, annotations['name'])
