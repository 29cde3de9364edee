import pytest
import torch

from thinktwice.model_code.data_preprocessor import DrivingDataPreprocessor

PHOTOMETRIC = {'type': 'PhotometricAugmentation'}


def make_batch(size=2):
    img = torch.randint(0, 256, (size, 2, 3, 3, 16, 24), dtype=torch.uint8)
    points = [torch.randn(5 + b, 5) for b in range(size)]
    return {
        'inputs': {'img': img, 'points': points, 'speed': torch.rand(size)},
        'targets': {'waypoints': torch.rand(size, 4, 2), 'grid_feature': [torch.rand(size, 2, 3, 3)]},
        'metas': [{'sample_id': str(b), 'seed': 100 + b} for b in range(size)],
    }


def test_gray_124_is_normalized_as_documented():
    img = torch.full((1, 1, 1, 3, 2, 2), 124, dtype=torch.uint8)
    out = DrivingDataPreprocessor()({'inputs': {'img': img}})['inputs']['img']
    assert out.dtype == torch.float32
    assert out[0, 0, 0, :, 0, 0].tolist() == pytest.approx([0.005566, 0.135154, 0.356776], abs=1e-5)


def test_groups_pass_and_evaluation_ignores_the_augmentation():
    batch = make_batch()
    preprocessor = DrivingDataPreprocessor(photometric=PHOTOMETRIC)
    preprocessor.set_iteration(900_000)
    out = preprocessor(batch, training=False)
    assert set(out) == {'inputs', 'targets', 'metas'}
    restored = out['inputs']['img'] * preprocessor.std + preprocessor.mean
    assert torch.allclose(restored, batch['inputs']['img'].float(), atol=1e-3)
    assert [len(cloud) for cloud in out['inputs']['points']] == [5, 6]
    assert torch.equal(out['targets']['grid_feature'][0], batch['targets']['grid_feature'][0])
    assert out['metas'] is batch['metas']
    assert batch['inputs']['img'].dtype == torch.uint8  # the loader's batch is left alone


def test_a_sample_is_augmented_alike_alone_and_in_a_batch():
    batch = make_batch()
    preprocessor = DrivingDataPreprocessor(photometric=PHOTOMETRIC)
    preprocessor.set_iteration(600_000)
    together = preprocessor(batch, training=True)['inputs']['img']
    single = {'inputs': {'img': batch['inputs']['img'][1:]}, 'metas': batch['metas'][1:]}
    assert torch.equal(preprocessor(single, training=True)['inputs']['img'], together[1:])
    assert not torch.equal(preprocessor(batch)['inputs']['img'], together)


def test_strength_follows_the_iteration_that_was_set():
    batch = make_batch()
    preprocessor = DrivingDataPreprocessor(photometric=PHOTOMETRIC)
    changed = []
    for iteration in (0, 600_000):
        preprocessor.set_iteration(iteration)
        out = preprocessor(batch, training=True)['inputs']['img']
        changed.append((out - preprocessor(batch)['inputs']['img']).abs().mean().item())
    assert changed[1] > changed[0]


def test_missing_seed_is_named():
    batch = make_batch()
    del batch['metas'][1]['seed']
    with pytest.raises(ValueError, match='seed'):
        DrivingDataPreprocessor(photometric=PHOTOMETRIC)(batch, training=True)


def test_state_dict_stays_empty():
    assert not DrivingDataPreprocessor(photometric=PHOTOMETRIC).state_dict()


def test_augmentation_is_the_same_under_autocast():
    preprocessor = DrivingDataPreprocessor(photometric={'type': 'PhotometricAugmentation'})
    preprocessor.set_iteration(100_000)
    img = torch.randint(0, 256, (2, 2, 4, 3, 16, 24), dtype=torch.uint8)
    data = {'inputs': {'img': img}, 'metas': [{'seed': 3}, {'seed': 4}]}
    plain = preprocessor(data, training=True)['inputs']['img']
    with torch.autocast('cpu', torch.bfloat16):
        mixed = preprocessor(data, training=True)['inputs']['img']
    assert torch.equal(mixed, plain)
