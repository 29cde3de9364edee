"""Numerical comparison with the official 2023 model."""

from thinktwice.apis.parity.batch import from_official_batch
from thinktwice.apis.parity.compare import (
    TOLERANCE,
    Deviation,
    collect,
    compare,
    fingerprint,
    relative_gradient_errors,
)
from thinktwice.apis.parity.inputs import deterministic_batch, deterministic_weights
from thinktwice.apis.parity.run import build_filled_model, run_batch

__all__ = [
    'TOLERANCE',
    'Deviation',
    'build_filled_model',
    'collect',
    'compare',
    'deterministic_batch',
    'deterministic_weights',
    'fingerprint',
    'from_official_batch',
    'relative_gradient_errors',
    'run_batch',
]
