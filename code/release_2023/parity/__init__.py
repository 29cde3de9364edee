"""Numerical comparison with the official 2023 model."""

from thinktwice.release_2023.parity.compare import TOLERANCE, compare, relative_gradient_errors
from thinktwice.release_2023.parity.inputs import deterministic_batch, deterministic_weights
from thinktwice.release_2023.parity.run import fill_model, run_batch

__all__ = [
    'TOLERANCE',
    'compare',
    'deterministic_batch',
    'deterministic_weights',
    'fill_model',
    'relative_gradient_errors',
    'run_batch',
]
