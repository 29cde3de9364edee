"""Random damage to files and to nested containers, each a function of a random generator."""

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

VALUES = (
    *(None, True, False, 0, 1, 2, 3, 7, -1, -3, 10**9, 0.5, 2.5, -0.1, 1e30, float('nan'), float('inf')),
    *('', 'abc', 'é x', 'None', [], [1], [0, 0], [-1, 3], [2.0, 1.0], {}, {'type': 'Nothing'}, {'a': 1}),
)
ARRAY_CHANGES: dict[str, Callable[[np.ndarray], Any]] = {
    'float64': lambda a: a.astype(np.float64),
    'int8': lambda a: np.nan_to_num(a).astype(np.int8),
    'bool': lambda a: a.astype(bool),
    'complex': lambda a: a.astype(np.complex64),
    'nan': lambda a: np.full_like(a, np.nan, np.float32),
    'huge': lambda a: np.full_like(a, 1e38, np.float32),
    'flat': lambda a: a.reshape(-1),
    'no rows': lambda a: a[:0] if a.ndim else np.zeros(0, np.float32),
    'more axes': lambda a: a[None],
    'one column less': lambda a: a[..., :-1] if a.ndim else a,
    'none': lambda a: None,
}


class EditableTuple(list):
    """A tuple of a config whose items can be changed."""

    def __repr__(self) -> str:
        return repr(tuple(self))


def editable(node: Any) -> Any:
    """A copy of nested containers without tuples."""
    if isinstance(node, dict):
        return {key: editable(value) for key, value in node.items()}
    kinds = {list: list, tuple: EditableTuple}
    return kinds[type(node)](map(editable, node)) if type(node) in kinds else node


def paths_of(node: Any, path: tuple = ()) -> list[tuple]:
    """Paths of all entries in nested dicts and lists."""
    found = []
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        found.append((*path, key))
        if isinstance(value, (dict, list)):
            found += paths_of(value, (*path, key))
    return found


def entry(node: Any, path: tuple) -> Any:
    """The entry at a path."""
    for key in path:
        node = node[key]
    return node


def edit(tree: Any, rng: random.Random, path: tuple) -> str:
    """Change, rename or delete the entry at a path of nested containers; returns what was done."""
    kind = rng.choice(('value', 'value', 'value', 'scale', 'delete', 'rename', 'swap'))
    parent, key, name = entry(tree, path[:-1]), path[-1], '.'.join(map(str, path))
    old, new = parent[key], rng.choice(VALUES)
    if kind == 'delete':
        del parent[key]
        return f'{name} deleted'
    if kind == 'rename' and isinstance(key, str):
        other = key[:-1] + rng.choice(('', 'x', 's'))
        parent[other] = parent.pop(key)
        return f'{name} renamed to {other!r}'
    if isinstance(old, (np.ndarray, np.generic, torch.Tensor)):
        kind = rng.choice(sorted(ARRAY_CHANGES))
        with np.errstate(invalid='ignore'):
            new = np.array(ARRAY_CHANGES[kind](np.asarray(old)))
        if isinstance(old, torch.Tensor) and new.dtype != object and rng.random() < 0.9:
            new = torch.from_numpy(new) if rng.random() < 0.9 else old.to_sparse()
    elif kind == 'scale' and type(old) in (int, float):
        new = old * rng.choice((-1, 0, 0.5, 2, 3, 100))
    elif kind == 'swap':
        new = copy.deepcopy(entry(tree, rng.choice(paths_of(tree))))
    parent[key] = new
    return f'{name}: {kind} {old!r:.60} -> {new!r:.60}'.replace('\n', ' ')


def damaged_bytes(path: Path, rng: random.Random) -> str:
    """Flip bits of a file, cut, empty, replace or remove it; returns what was done."""
    content = bytearray(path.read_bytes())
    kind = rng.choice(('flip', 'flip', 'flip', 'cut', 'empty', 'noise', 'zeros', 'remove', 'folder'))
    place, number = rng.randrange(len(content)), rng.choice((1, 1, 100))
    for _ in range(number if kind == 'flip' else 0):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    zeros = content[:place] + bytes(len(content) - place)
    changed = dict(flip=content, cut=content[:place], noise=rng.randbytes(200), zeros=zeros, empty=b'')
    path.unlink()
    if kind == 'folder':
        path.mkdir()
    elif kind != 'remove':
        path.write_bytes(changed[kind])
    return f'{path.parent.name}/{path.name}: {kind}'


def damaged_content(path: Path, rng: random.Random) -> str:
    """Change an entry of a JSON, array or checkpoint file, other files as bytes; returns what was done."""
    if path.suffix == '.json':
        tree = json.loads(path.read_text())
        change = edit(tree, rng, rng.choice(paths_of(tree)))
        path.write_text(json.dumps(tree))
    elif path.suffix == '.npy':
        array = np.load(path, allow_pickle=True)
        tree = array.item() if array.dtype == object else {'array': array}
        change = edit(tree, rng, rng.choice(paths_of(tree)))
        np.save(path, np.array(tree) if array.dtype == object else np.asarray(tree.get('array')))
    elif path.suffix == '.pth':
        tree = torch.load(path, weights_only=True)
        part = rng.choice([key for key in ('meta', 'state_dict', 'optimizer', 'hooks') if tree[key]])
        paths = [(part, *place) for place in paths_of(tree[part])]
        if part == 'optimizer':  # the states of the parameters are many, the other entries few
            paths = [place for place in paths if place[1] != 'state'] + rng.sample(paths, 20)
        change = edit(tree, rng, rng.choice(paths))
        torch.save(tree if rng.random() < 0.9 else rng.choice((tree['state_dict'], [1], {})), path)
    else:
        return damaged_bytes(path, rng)
    return f'{path.parent.name}/{path.name}: {change}'
