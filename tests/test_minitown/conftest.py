"""One small recording for the tests that look at files."""

from pathlib import Path

import pytest

from thinktwice.minitown import record

FRAMES = 10
SIZE = (90, 160)


@pytest.fixture(scope='session')
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two routes of ten frames, one of a training town, one of a validation town."""
    root = tmp_path_factory.mktemp('minitown') / 'recording'
    record(root, routes=2, frames=FRAMES, seed=3, size=SIZE, debug_maps=True)
    return root


@pytest.fixture(scope='session')
def route_folders(recording: Path) -> list[Path]:
    return sorted(recording.glob('town*/routes_*'))
