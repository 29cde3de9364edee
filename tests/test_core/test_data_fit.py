"""A model that is too small for the data is refused before the first step."""

from pathlib import Path

import pytest
from helpers.tiny_dataset import write_dataset

from thinktwice.config.load import load_config
from thinktwice.core.data_fit import check_data_fits
from thinktwice.core.runner import DrivingRunner
from thinktwice.errors import ConfigError

MINITOWN = Path(__file__).resolve().parents[2] / 'configs' / 'thinktwice_minitown.py'
METAINFO = {
    'commands': ['left'] * 6,
    'classes': ['road'] * 12,
    'bev': {'x': (-8.0, 30.4), 'y': (-19.2, 19.2)},
}


def model(num_commands: int, num_classes: int, loss: str = 'SegmentationLoss') -> dict:
    return {
        'measurement_encoder': {'num_commands': num_commands},
        'img_encoder': {'seg_head': {'num_classes': num_classes}},
        'losses': {'first': {'type': loss}, 'left_out': None},
    }


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        (model(3, 12), r'model\.measurement_encoder\.num_commands is 3, .* 6 commands'),
        (model(6, 8), r'model\.img_encoder\.seg_head\.num_classes is 8, .* 12 classes'),
    ],
)
def test_smaller_numbers_are_refused_by_key(config: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_data_fits(config, METAINFO, trains=False)


def test_numbers_that_can_not_fail_are_accepted() -> None:
    check_data_fits(model(6, 12), METAINFO, trains=True)
    check_data_fits(model(7, 20), METAINFO, trains=True)
    check_data_fits(model(6, 8, loss='WaypointLoss'), METAINFO, trains=True)
    check_data_fits({'type': 'SomeOtherModel'}, METAINFO, trains=True)
    check_data_fits(model(3, 8), {}, trains=True)


def bev_model(x: tuple, y: tuple, loss: str = 'BEVFeatureLoss') -> dict:
    grid = {'x_bounds': (*x, 0.4), 'y_bounds': (*y, 0.4)}
    return {'img_encoder': {'view_transform': {'bev_grid': grid}}, 'losses': {'first': {'type': loss}}}


def test_another_bev_range_than_that_of_the_teacher_is_refused_where_a_loss_compares_maps() -> None:
    right = ((-8.0, 30.4), (-19.2, 19.2))
    other_x, other_y = ((-16.0, 22.4), right[1]), (right[0], (-20.0, 18.4))
    for loss in ('BEVFeatureLoss', 'RefineFeatureLoss', 'thinktwice.TeacherForcingFeatureLoss'):
        check_data_fits(bev_model(*right, loss), METAINFO, trains=True)
        with pytest.raises(ConfigError, match=rf'x_range is \(-16.*\(-8.0, 30.4\) m.*{loss}'):
            check_data_fits(bev_model(*other_x, loss), METAINFO, trains=True)
        with pytest.raises(ConfigError, match=r'y_range is \(-20.*\(-19.2, 19.2\) m'):
            check_data_fits(bev_model(*other_y, loss), METAINFO, trains=True)
    check_data_fits(bev_model(*other_x, 'FeatureLoss'), METAINFO, trains=True)
    check_data_fits(bev_model(*other_x), METAINFO, trains=False)
    check_data_fits(bev_model(*other_x), {}, trains=True)
    check_data_fits(bev_model(([], 30.4), right[1]), METAINFO, trains=True)  # refused by the view transform


def test_one_bev_range_is_needed_in_all_parts() -> None:
    x, y = (-8.0, 30.4), (-19.2, 19.2)
    lidar = {'voxelize': {'point_cloud_range': (x[0], y[0], -4.0, x[1], y[1], 10.0)}}
    parts = bev_model(x, y) | {'lidar_encoder': lidar, 'decoder': {'x_range': x, 'y_range': y}}
    check_data_fits(parts, METAINFO, trains=True)
    for other in (parts | {'decoder': {'x_range': (-8.0, 30.0)}}, parts | bev_model((-9.0, 30.4), y)):
        with pytest.raises(ConfigError, match=r'along x, but model\..*set x_range of the config'):
            check_data_fits(other, METAINFO, trains=False)
    with pytest.raises(ConfigError, match=r'model\.lidar_encoder.* along y, but'):
        check_data_fits(parts | bev_model(x, (-19.2, 20.0)), METAINFO, trains=False)
    of_lidar = {'lidar_encoder': lidar, 'losses': {'first': {'type': 'BEVFeatureLoss'}}}
    check_data_fits(of_lidar, METAINFO, trains=True)
    with pytest.raises(ConfigError, match=r'x_range is \(-8.0, 30.4\) m, but the maps of the teacher'):
        check_data_fits(of_lidar, {'bev': {'x': (-8.0, 40.0)}}, trains=True)


@pytest.mark.slow
@pytest.mark.parametrize('option', [{'model.measurement_encoder.num_commands': 3}, {'num_seg_classes': 8}])
def test_training_ends_at_the_start(tmp_path: Path, option: dict) -> None:
    root = write_dataset(tmp_path / 'data', {'town01_00/routes_a': 8})
    cfg = load_config(str(MINITOWN), {'is_dev': True, 'data_root': str(root), **option})
    cfg.work_dir, cfg.launcher = str(tmp_path / 'run'), 'none'
    with pytest.raises(ConfigError, match='but the data has'):
        DrivingRunner.from_cfg(cfg).build_all()


def test_the_cells_of_an_unpadded_teacher_begin_inside_of_its_range() -> None:
    check_data_fits(bev_model((-5.3864, 28.3896), (-17.1896, 16.5864)), METAINFO, trains=True)
    with pytest.raises(ConfigError, match='x_range'):
        check_data_fits(bev_model((-5.0, 28.3896), (-17.1896, 16.5864)), METAINFO, trains=True)
    with pytest.raises(ConfigError, match='y_range'):
        check_data_fits(bev_model((-8.0, 30.4), (-19.5, 19.2)), METAINFO, trains=True)
