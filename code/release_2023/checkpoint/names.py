"""Names of the official 2023 checkpoint, translated to the names of this framework and back.

The translation is a list of rules, each a pair of dotted prefixes in which ``*`` stands for
one segment (a layer number). The first rule that matches replaces the prefix of a name; the
rest stays. The layout of sparse kernels is another matter, see
:mod:`thinktwice.release_2023.checkpoint.layouts`.
"""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

ENTRIES_FILE = Path(__file__).with_name('official_entries.json')

#: Official entries that the config determines; our model has no such entries.
DERIVED_ENTRIES = tuple(
    f'img_encoder.{name}' for name in ('voxel_size', 'voxel_coord', 'voxel_num', 'frustum')
)
SPARSE_PREFIX = 'lidar_encoder.pts_middle_encoder.'
_PYRAMID = 'img_encoder.depth_net.depth_conv.3'

#: (official prefix, our prefix), the more specific first
_CAMERA_RULES = (
    ('img_encoder.bev_multiframe_merge', 'img_encoder.merge_frames_conv'),
    ('img_encoder.img_backbone', 'img_encoder.backbone'),
    ('img_encoder.img_neck', 'img_encoder.neck'),
    ('img_encoder.neck_conv', 'img_encoder.lift_conv'),
    ('img_encoder.depth_net.bn', 'img_encoder.depth_net.camera_norm'),
    *(
        (f'img_encoder.depth_net.{branch}_{official}', f'img_encoder.depth_net.{branch}_gate.{ours}')
        for branch in ('context', 'depth')
        for official, ours in (
            ('mlp.fc1', 'mlp.0'),
            ('mlp.fc2', 'mlp.2'),
            ('se.conv_reduce', 'squeeze_excite.0'),
            ('se.conv_expand', 'squeeze_excite.2'),
        )
    ),
    *(
        (f'{_PYRAMID}.aspp{i + 1}.{official}', f'{_PYRAMID}.branches.{i}.{ours}')
        for i in range(4)
        for official, ours in (('atrous_conv', '0'), ('bn', '1'))
    ),
    (f'{_PYRAMID}.global_avg_pool', f'{_PYRAMID}.global_branch'),
    (f'{_PYRAMID}.conv1', f'{_PYRAMID}.merge.0'),
    (f'{_PYRAMID}.bn1', f'{_PYRAMID}.merge.1'),
    ('img_encoder.depth_net', 'img_encoder.depth_net'),
    *(
        (f'img_encoder.seg_net.unet_layer{level}.{official}', f'img_encoder.seg_head.up_blocks.{i}.{ours}')
        for i, level in enumerate((4, 3, 2))
        for official, ours in (('up', 'up'), ('conv_relu', 'merge'))
    ),
    ('img_encoder.seg_net.unet_layer0', 'img_encoder.seg_head.refine'),
    ('img_encoder.seg_net.conv_last', 'img_encoder.seg_head.classify'),
    ('img_encoder.seg_res_to_image_feature', 'img_encoder.seg_branch.layers'),
    ('img_encoder.merge_seg_and_image', 'img_encoder.merge_seg_conv'),
)
_LIDAR_RULES = (
    ('lidar_encoder.pts_middle_encoder', 'lidar_encoder.middle_encoder'),
    ('lidar_encoder.pts_backbone', 'lidar_encoder.backbone'),
    ('lidar_encoder.pts_neck', 'lidar_encoder.neck'),
)
_FUSION_RULES = (
    ('conv_cam', 'bev_fusion.camera_conv'),
    ('conv_lidar', 'bev_fusion.lidar_conv'),
    ('conv_fusion', 'bev_fusion.fusion_conv'),
    ('_256_to_32', 'bev_fusion.reduce_conv'),
    ('MLP21.se', 'bev_fusion.refine_block.gate'),
    ('MLP21', 'bev_fusion.refine_block'),
    *(
        (f'conv{name}', f'flatten_head.downsample_convs.{i}')
        for i, name in enumerate(('21_10', '10_4', '4_2'))
    ),
    *((f'MLP{size}.se', f'flatten_head.blocks.{i}.gate') for i, size in enumerate((10, 4, 2))),
    *((f'MLP{size}', f'flatten_head.blocks.{i}') for i, size in enumerate((10, 4, 2))),
    ('output_fc', 'flatten_head.vector_head'),
    ('measurements_encoder', 'measurement_encoder.layers'),
)
_LAYER = 'decoder.decoder_layers.*'
_DECODER_RULES = (
    ('decoder.cams_embeds', 'decoder.camera_embedding'),
    ('decoder.level_embeds', 'decoder.level_embedding'),
    ('decoder.temporal_embedding', 'decoder.temporal_embedding'),
    ('decoder.static_embedding', 'decoder.static_embedding'),
    ('decoder.dist_mu', 'decoder.coarse_head.alpha_head'),
    ('decoder.dist_sigma', 'decoder.coarse_head.beta_head'),
    *(
        (f'decoder.{name}', f'decoder.coarse_head.{name}')
        for name in ('join_traj', 'join_ctrl', 'speed_branch', 'value_branch_traj', 'value_branch_ctrl')
    ),
    ('decoder.output_traj', 'decoder.coarse_head.output_traj'),
    ('decoder.policy_head', 'decoder.coarse_head.policy_head'),
    *((f'decoder.fpn_linear{i}', f'decoder.level_projections.{i}') for i in range(4)),
    *(
        (f'{_LAYER}.{official}', f'decoder.layers.*.{ours}')
        for official, ours in (
            ('look_module.cam_look_module', 'camera_look'),
            ('look_module.lidar_look_module_atten', 'lidar_look.gate'),
            ('look_module.lidar_look_module_MLP.0', 'lidar_look.point_mlp.0'),
            ('look_module.lidar_look_module_MLP.3', 'lidar_look.step_mlp.0'),
            ('look_module.look_feature_MLP', 'look_feature_mlp'),
            ('BEV_feat_update_module', 'bev_map_update'),
            ('flattened_BEV_feat_update_module', 'bev_vector_update'),
            ('mlp.4', 'mlp.3'),  # a dropout of 0 stands between in the official model
            ('mlp', 'mlp'),
            ('prediction_module', 'prediction_module'),
            ('traj_offset_module', 'traj_offset_module'),
            ('ctrl_offset_module', 'ctrl_offset_module'),
        )
    ),
)


class NameMap:
    """Translation of names by prefix rules, in both directions.

    Args:
        rules: Pairs (official prefix, our prefix), the more specific first. ``*``
            stands for one segment and must occur equally often on both sides.
    """

    def __init__(self, rules: Sequence[tuple[str, str]]) -> None:
        self._to_ours = [_compile(official, ours) for official, ours in rules]
        self._to_official = [_compile(ours, official) for official, ours in rules]

    def to_ours(self, name: str) -> str | None:
        """Our name of an official entry, None if no rule matches."""
        return _translate(self._to_ours, name)

    def to_official(self, name: str) -> str | None:
        """Official name of one of our entries, None if no rule matches."""
        return _translate(self._to_official, name)


def _compile(source: str, target: str) -> tuple[re.Pattern[str], str]:
    if source.count('*') != target.count('*'):
        raise ValueError(f'rule {source!r} -> {target!r}: "*" must occur equally often on both sides')
    pattern = re.escape(source).replace(r'\*', '([^.]+)')
    parts = target.split('*')
    replacement = parts[0] + ''.join(rf'\g<{i}>{part}' for i, part in enumerate(parts[1:], 1))
    return re.compile(rf'^{pattern}(?=\.|$)'), replacement


def _translate(rules: list[tuple[re.Pattern[str], str]], name: str) -> str | None:
    for pattern, replacement in rules:
        if pattern.match(name):
            return pattern.sub(replacement, name, count=1)
    return None


@lru_cache(maxsize=1)
def official_entries() -> dict[str, tuple[int, ...]]:
    """Every entry of the official state dict with its shape.

    The frustum's shape is that of images of 128x256 pixels; the shapes of sparse
    kernels are in the layout of spconv 2.
    """
    entries = json.loads(ENTRIES_FILE.read_text())
    return {name: tuple(shape) for name, shape in entries.items()}


OFFICIAL_NAMES = NameMap([*_CAMERA_RULES, *_LIDAR_RULES, *_FUSION_RULES, *_DECODER_RULES])
