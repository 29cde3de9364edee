"""The reference config's pipeline on recorded files; what it does to them is held by test_quirks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny_dataset import change_measurements, measurements_of, write_dataset

from thinktwice.config.load import load_config
from thinktwice.datasets import CarlaDataset
from thinktwice.geometry import poses

CONFIG = Path(__file__).resolve().parents[2] / 'configs' / 'thinktwice_reference.py'
SMALL = {'image_size': [16, 32]}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp('data'), {'town01_00/routes_a': 8})


@pytest.mark.parametrize(
    ('pipeline', 'dtype'), [('train_pipeline', torch.uint8), ('test_pipeline', torch.float32)]
)
def test_pipeline_of_the_reference_config_makes_whole_samples(root, pipeline, dtype):
    steps = load_config(str(CONFIG), dict(SMALL))[pipeline]
    names = [step['type'] for step in steps]
    assert 'ReferenceLoadPoints' in names
    assert 'ReferenceLoadCameras' in names
    sample = CarlaDataset(root, pipeline=steps, test_mode=pipeline == 'test_pipeline')[0]
    assert sample['inputs']['img'].dtype == dtype
    assert sample['inputs']['img'].shape == (2, 2, 3, 16, 32)
    assert sample['targets']['seg'].dtype == torch.uint8
    assert sample['targets']['seg'].max() <= 10
    assert sample['targets']['depth'].shape == (2, 16, 32)


def test_samples_differ_from_those_of_the_main_config_where_they_should(root):
    inputs = []
    for config in ('thinktwice.py', 'thinktwice_reference.py'):
        steps = load_config(str(CONFIG.parent / config), dict(SMALL)).test_pipeline
        inputs.append(CarlaDataset(root, pipeline=steps, test_mode=True)[0]['inputs'])
    main, reference = inputs
    for key in ('intrinsics', 'cam2ego', 'frame2key', 'speed', 'target_point', 'command'):
        assert torch.equal(main[key], reference[key]), key
    for key in ('img', 'ida_mats', 'points'):
        assert not torch.equal(main[key], reference[key]), key
    is_key = (main['points'][:, 4] == 0).numpy()
    assert np.array_equal(main['points'].numpy()[is_key], reference['points'].numpy()[is_key])


def test_missing_heading_counts_as_north_in_2023_and_costs_the_sample_here(tmp_path):  # Q17
    root = write_dataset(tmp_path, {'town01_00/routes_a': 9})
    change_measurements(root, 'town01_00/routes_a', 1, theta=float('nan'))
    samples = []
    for config in ('thinktwice.py', 'thinktwice_reference.py'):
        steps = load_config(str(CONFIG.parent / config), dict(SMALL)).test_pipeline
        samples.append(CarlaDataset(root, pipeline=steps, test_mode=True)[0])
    main, reference = samples
    assert main['metas']['index'] != 0
    assert reference['metas']['index'] == 0
    key, target = measurements_of(1), measurements_of(2)
    pose = np.array([*poses.north_east_to_world(key['x'], key['y']), -np.pi / 2])
    expected = poses.world_to_ego(poses.north_east_to_world(target['x'], target['y']), pose)
    assert np.allclose(reference['targets']['waypoints'][0], expected, atol=1e-4)
