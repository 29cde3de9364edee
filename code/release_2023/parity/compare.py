"""Compare what a model computes with stored values."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

TOLERANCE = 1e-3


@dataclass(frozen=True)
class Deviation:
    """Difference of one entry from its stored value.

    Attributes:
        entry: Name in the stored file.
        error: Largest difference, relative to the largest stored magnitude.
        detail: Why the entry could not be compared, if so.
    """

    entry: str
    error: float
    detail: str = ''


def compare(stored: Mapping[str, np.ndarray], computed: Mapping[str, np.ndarray]) -> list[Deviation]:
    """Compare every stored entry with the computed one, worst first.

    Gradient norms are compared by parameter name; parameters on one side only are
    deviations of their own.

    Args:
        stored: Content of a stored file.
        computed: The same entries, from ``run_batch``.

    Returns:
        One deviation per entry. An entry that is missing, of another shape or not finite
        has an infinite error.
    """
    deviations = [
        _compare_entry(name, np.asarray(stored[name]), computed.get(name))
        for name in stored
        if name not in ('grad/names', 'grad/norms')
    ]
    if 'grad/names' in stored:
        deviations += _compare_gradients(stored, computed)
    return sorted(deviations, key=lambda deviation: -deviation.error)


def _compare_entry(name: str, stored: np.ndarray, computed: np.ndarray | None) -> Deviation:
    if computed is None:
        return Deviation(name, float('inf'), 'not computed')
    if stored.shape != computed.shape:
        return Deviation(name, float('inf'), f'shape {computed.shape}, stored {stored.shape}')
    if not np.isfinite(computed).all():
        return Deviation(name, float('inf'), 'not finite')
    scale = max(float(np.abs(stored).max()), float(np.finfo(np.float32).tiny))
    return Deviation(name, float(np.abs(computed - stored).max()) / scale)


def _norms(entries: Mapping[str, np.ndarray]) -> dict[str, float]:
    return dict(zip(entries['grad/names'].tolist(), entries['grad/norms'].tolist(), strict=True))


def _compare_gradients(
    stored: Mapping[str, np.ndarray], computed: Mapping[str, np.ndarray]
) -> list[Deviation]:
    wanted, found = _norms(stored), _norms(computed)
    deviations = [
        Deviation(f'grad/{name}', float('inf'), 'has no gradient here')
        for name in wanted.keys() - found.keys()
    ]
    deviations += [
        Deviation(f'grad/{name}', float('inf'), 'has a gradient here, none stored')
        for name in found.keys() - wanted.keys()
    ]
    common = [name for name in wanted if name in found]
    aligned = (np.array([values[name] for name in common]) for values in (wanted, found))
    deviations.append(_compare_entry('grad/norms', *aligned))
    return deviations


def relative_gradient_errors(
    stored: Mapping[str, np.ndarray], computed: Mapping[str, np.ndarray]
) -> list[Deviation]:
    """Error of each gradient norm relative to itself, worst first (stricter than :func:`compare`)."""
    found = _norms(computed)
    deviations = [
        Deviation(f'grad/{name}', abs(found[name] - norm) / max(norm, float(np.finfo(np.float32).tiny)))
        for name, norm in _norms(stored).items()
        if name in found
    ]
    return sorted(deviations, key=lambda deviation: -deviation.error)
