"""Every row of docs/reference_quirks.md has a test that fails on the 2023 behavior; this is the list."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
PAGE = TESTS.parent / 'docs' / 'reference_quirks.md'

CAMERA, LIDAR, DECODER = (f'test_quirks/test_{name}.py' for name in ('camera_geometry', 'lidar', 'decoder'))
LOSSES, IMAGES = 'test_quirks/test_losses_and_training.py', 'test_quirks/test_images_and_labels.py'
ENCODERS, HEADS = 'test_model_code/test_backbones', 'test_model_code/test_dense_heads'
FRAMEWORK, DATASETS = 'test_encoder_decoder_framework.py', 'test_datasets'

HELD_BY = {
    'M1': (CAMERA, 'test_rays_start_at_the_camera'),
    'M2': (CAMERA, 'test_ego_motion_moves_what_the_history_frame_saw'),
    'M3': (DECODER, 'test_plan_depends_on_what_the_lidar_saw'),
    'M4': (DECODER, 'test_sample_alone_equals_the_sample_in_a_batch'),
    'M5': (DECODER, 'test_residual_block_of_the_future_has_an_effect'),
    'M6': (f'{HEADS}/test_look_lidar.py', 'test_a_waypoint_reads_the_cell_it_lies_in'),
    'M7': (CAMERA, 'test_map_is_oriented_as_the_teachers'),
    'M8': (DECODER, 'test_levels_can_be_told_apart_from_the_start'),
    'M9': (LOSSES, 'test_one_sample_a_process_can_train'),
    'M10': ('test_model_code/test_losses/test_segmentation.py', 'test_the_size_is_the_one_of_each_call'),
    'M11': (FRAMEWORK, 'test_every_parameter_is_reached_in_the_first_two_steps'),
    'M12': (LOSSES, 'test_value_loss_is_one_number'),
    'M13': (CAMERA, 'test_static_point_lifts_to_one_place_from_both_frames'),
    'M14': (LIDAR, 'test_static_point_aligns_across_frames'),
    'M15': (LIDAR, 'test_static_point_aligns_across_frames'),
    'M16': (
        f'{ENCODERS}/test_lidar_encoder.py',
        'test_points_above_the_sparse_grid_and_outside_of_the_range_do_not_count',
    ),
    'M17': (LIDAR, 'test_cloud_alone_equals_the_cloud_beside_a_longer_one'),
    'M18': (f'{ENCODERS}/test_lidar_encoder.py', 'test_an_empty_cloud_in_the_batch_keeps_its_place'),
    'M19': (DECODER, 'test_attention_starts_from_rings_and_equal_weights'),
    'M20': (DECODER, 'test_returned_future_maps_keep_layers_and_steps_apart'),
    'M21': (LOSSES, 'test_each_pixel_is_weighed_by_its_own_difficulty'),
    'M22': (CAMERA, 'test_what_lies_below_the_range_has_no_cell'),
    'M23': (CAMERA, 'test_rays_go_through_the_centers_of_the_lifted_cells'),
    'M24': (CAMERA, 'test_depth_of_a_bin_is_right_on_average'),
    'M25': (LOSSES, 'test_depth_can_be_trained_as_it_is_used'),
    'M26': (IMAGES, 'test_buildings_are_no_background'),
    'M27': (IMAGES, 'test_augmentation_invents_no_class_and_no_depth'),
    'M28': (
        f'{ENCODERS}/test_camera_encoder.py',
        'test_camera_norm_can_be_fixed_and_other_names_are_refused',
    ),
    'M29': (f'{HEADS}/test_thinktwice_decoder.py', 'test_steps_pooled_apart_are_an_option'),
    'M30': (
        f'{ENCODERS}/test_bev_fusion.py',
        'test_flatten_head_without_batch_statistics_treats_each_map_alone',
    ),
    'M31': (LOSSES, 'test_every_weight_of_the_config_is_used'),
    'M32': (f'{DATASETS}/test_samplers.py', 'test_metric_over_three_processes_sees_every_sample_once'),
    'M33': (FRAMEWORK, 'test_every_parameter_is_reached_in_the_first_two_steps'),
    'M35': ('test_quirks/test_teacher_grid.py', 'test_cells_are_where_those_of_the_teacher_are'),
    'M34': (LOSSES, 'test_targets_of_zero_stay_finite'),
    'Q1': (LIDAR, 'test_static_point_aligns_across_frames'),
    'Q2': (LIDAR, 'test_static_point_aligns_across_frames'),
    'Q3': (CAMERA, 'test_static_point_lifts_to_one_place_from_both_frames'),
    'Q4': (LIDAR, 'test_map_is_oriented_as_the_teachers'),
    'Q5': (IMAGES, 'test_buildings_are_no_background'),
    'Q6': (IMAGES, 'test_red_lights_are_red'),
    'Q7': (IMAGES, 'test_augmentation_invents_no_class_and_no_depth'),
    'Q8': (IMAGES, 'test_front_depth_is_measured_from_the_color_camera'),
    'Q9': (IMAGES, 'test_image_without_distortion_stays_where_it_is'),
    'Q10': (IMAGES, 'test_matrix_finds_the_pixel'),
    'Q11': (LOSSES, 'test_augmentation_grows_with_the_whole_run'),
    'Q12': (LOSSES, 'test_noise_changes_pixels'),
    'Q13': (IMAGES, 'test_training_images_are_as_bright_as_those_of_evaluation'),
    'Q14': (f'{DATASETS}/test_pixels.py', 'test_one_warp_agrees_with_two_steps'),
    'Q15': (LIDAR, 'test_cloud_alone_equals_the_cloud_beside_a_longer_one'),
    'Q16': (f'{DATASETS}/test_pipeline_steps.py', 'test_cloud_of_one_frame_has_the_same_columns'),
    'Q17': (
        f'{DATASETS}/test_carla_dataset.py',
        'test_sample_without_a_heading_is_replaced_under_any_policy',
    ),
    'Q18': (f'{DATASETS}/test_carla_dataset.py', 'test_sample_has_the_agreed_fields_and_shapes'),
    'Q19': (f'{DATASETS}/test_route_rules.py', 'test_tool_finds_scores_all_indices_and_sorts_routes'),
    'Q20': (f'{DATASETS}/test_splits.py', 'test_cap_is_exact_and_cuts_the_last_route'),
    'Q21': ('test_config/test_overrides.py', 'test_switch_moves_all_that_derives_from_it'),
    'Q22': (f'{DATASETS}/test_samplers.py', 'test_metric_over_three_processes_sees_every_sample_once'),
    'Q23': (
        f'{DATASETS}/test_carla_dataset.py',
        'test_randomness_depends_on_seed_epoch_and_index_alone',
    ),
    'Q24': (f'{DATASETS}/test_storage_unpickle.py', 'test_a_payload_is_refused_by_name_and_not_run'),
    'Q25': (f'{DATASETS}/test_images_step.py', 'test_labels_are_read_for_the_key_frame_alone'),
    'Q26': (f'{DATASETS}/test_storage_files.py', 'test_a_damaged_file_is_reported_by_name'),
    'Q27': (f'{DATASETS}/test_images_step.py', 'test_another_image_size_or_class_id_is_reported'),
    'Q28': (f'{DATASETS}/test_carla_dataset.py', 'test_relative_root_is_resolved_once'),
    'Q29': (f'{DATASETS}/test_pipeline_steps.py', 'test_any_command_out_of_range_follows_the_lane'),
    'Q30': ('test_geometry/test_route_planner.py', 'test_target_is_the_node_after_the_last_one_reached'),
    'Q31': (
        f'{ENCODERS}/test_lidar_encoder.py',
        'test_points_above_the_sparse_grid_and_outside_of_the_range_do_not_count',
    ),
}


def rows_of_the_page():
    first_cells = re.findall(r'^\| ([MQ][^|]*) \|', PAGE.read_text(encoding='utf-8'), re.MULTILINE)
    return {row.strip() for cell in first_cells for row in cell.split(',')}


def test_page_lists_every_row():
    assert rows_of_the_page() >= {f'M{i}' for i in range(1, 35)} | {f'Q{i}' for i in range(1, 32)}


@pytest.mark.parametrize('row', sorted(HELD_BY))
def test_row_is_held_by_a_test_that_exists(row):
    assert row in rows_of_the_page()
    path, name = HELD_BY[row]
    tree = ast.parse((TESTS / path).read_text(encoding='utf-8'))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_no_row_is_without_a_test():
    assert set(HELD_BY) == rows_of_the_page()
