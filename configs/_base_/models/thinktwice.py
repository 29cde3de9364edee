"""The paper's model, corrected: 122,658,361 parameters. Lengths in meters, ego frame x forward, y right."""

# The sizes of all BEV maps follow from these and from the voxel size of the LiDAR encoder, whose map is
# interpolated to that of the cameras. The losses on the teacher's maps need its ranges and 21 x 21 cells.
# The cells of the BEV map lie where those of the teacher's 21 x 21 map are, whose convolutions have no
# padding and so leave a margin of its 38.4 m (docs/reference_quirks.md, M35).
x_range = (-5.3864, 28.3896)  # m, BEV range along x (forward)
y_range = (-17.1896, 16.5864)  # m, BEV range along y (right)
z_range = (-4.0, 10.0)  # m above the ground
bev_cell = 1.60838  # m, cell of the camera BEV: 21 x 21 cells
depth_bounds = (1.0, 41.0, 0.5)  # m: first, last, width of a depth bin
num_seg_classes = 12  # classes of the segmentation labels
num_cameras = 4  # cameras of a sample; `cameras` in the dataset config selects them
num_refine_layers = 5  # stages of the plan after the coarse one
speed_scale = 12.0  # m/s, speeds are divided by this

model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='DrivingDataPreprocessor',
        mean=(0.485, 0.456, 0.406),  # RGB, relative to 255
        std=(0.229, 0.224, 0.225),
        photometric=dict(type='PhotometricAugmentation'),
    ),
    img_encoder=dict(
        type='LSSCameraEncoder',
        backbone=dict(
            type='mmdet.ResNet',
            depth=50,
            num_stages=4,
            out_indices=(0, 1, 2, 3),
            frozen_stages=-1,
            norm_cfg=dict(type='BN', requires_grad=True),
            norm_eval=False,
            style='pytorch',
            init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50'),  # None: random weights
        ),
        neck=dict(type='mmdet.PAFPN', in_channels=[256, 512, 1024, 2048], out_channels=256, num_outs=4),
        depth_net=dict(
            type='CameraAwareDepthNet',
            in_channels=512,
            mid_channels=512,
            context_channels=256,
            aspp_dilations=(1, 6, 12, 18),
            aspp_dropout=0.5,
            deform_conv_groups=4,
            camera_norm='batch',
        ),
        seg_head=dict(
            type='UNetSegmentationHead',
            in_channels=(256, 256, 256, 256),
            up_channels=(256, 256, 128),
            head_channels=64,
            num_classes='${num_seg_classes}',
        ),
        seg_branch=dict(
            type='SegmentationFeatureBranch',
            num_classes='${num_seg_classes}',
            # channels, kernel, stride of each unit
            units=((64, 1, 1), (16, 1, 1), (32, 3, 2), (32, 1, 1), (64, 3, 2), (64, 1, 1), (128, 3, 2)),
        ),
        view_transform=dict(
            type='LiftSplat',
            bev_grid=dict(
                x_bounds=('${x_range.0}', '${x_range.1}', '${bev_cell}'),
                y_bounds=('${y_range.0}', '${y_range.1}', '${bev_cell}'),
                z_bounds=('${z_range.0}', '${z_range.1}', 14.0),  # one cell high
            ),
            depth_bounds='${depth_bounds}',
        ),
        neck_channels=256,
        lift_level=2,  # neck level that is lifted to BEV: stride 16
        out_channels=256,
        num_frames='${num_frames}',
    ),
    lidar_encoder=dict(
        type='LidarEncoder',
        voxelize=dict(
            voxel_size=(0.050262, 0.050262, 0.2),  # m
            point_cloud_range=(
                '${x_range.0}',
                '${y_range.0}',
                '${z_range.0}',
                '${x_range.1}',
                '${y_range.1}',
                '${z_range.1}',
            ),  # fmt: skip
            max_num_points=10,  # per voxel
            max_voxels=(120000, 160000),  # per point cloud, in training and in evaluation
        ),
        voxel_encoder=dict(type='mmdet3d.HardSimpleVFE', num_features=5),
        middle_encoder=dict(
            type='mmdet3d.SparseEncoder',
            in_channels=5,
            sparse_shape=(41, None, None),  # z, y, x: z up to 4.2 m; None: all voxels
            order=('conv', 'norm', 'act'),
            block_type='basicblock',
            output_channels=128,
            norm_cfg=dict(type='thinktwice.SingleValueBatchNorm1d', eps=1e-3, momentum=0.01),
            encoder_channels=((16, 16, 32), (32, 32, 64), (64, 64, 128), (128, 128)),
            encoder_paddings=((0, 0, 1), (0, 0, 1), (0, 0, (0, 1, 1)), (0, 0)),
        ),
        backbone=dict(
            type='mmdet3d.SECOND',
            in_channels=256,
            out_channels=[128, 256],
            layer_nums=[5, 5],
            layer_strides=[1, 2],
            norm_cfg=dict(type='BN', eps=1e-3, momentum=0.01),
            conv_cfg=dict(type='Conv2d', bias=False),
        ),
        neck=dict(
            type='mmdet3d.SECONDFPN',
            in_channels=[128, 256],
            out_channels=[256, 256],
            upsample_strides=[1, 2],
            norm_cfg=dict(type='BN', eps=1e-3, momentum=0.01),
            upsample_cfg=dict(type='deconv', bias=False),
            use_conv_for_no_stride=True,
        ),
    ),
    bev_fusion=dict(
        type='BEVFusion', camera_channels=256, lidar_channels=512, out_channels=32, lidar_strides=(2, 2)
    ),
    flatten_head=dict(
        type='BEVFlattenHead',
        in_channels=32,
        level_channels=(64, 128, 256),
        level_strides=(2, 2, 1),
        hidden_channels=512,
        out_channels=256,
    ),
    measurement_encoder=dict(
        type='MeasurementEncoder',
        num_commands=6,
        speed_scale='${speed_scale}',
        hidden_channels=128,
        out_channels=128,
    ),
    decoder=dict(
        type='ThinkTwiceDecoder',
        num_refine_layers='${num_refine_layers}',
        num_steps='${horizon}',
        num_cameras='${num_cameras}',
        num_levels=4,
        fpn_channels=256,
        image_channels=256,
        vector_channels=256,
        bev_channels=32,
        measurement_channels=128,
        lidar_channels=512,
        embed_channels=128,
        x_range='${x_range}',
        y_range='${y_range}',
        heights=tuple(float(z) for z in range(-4, 11)),  # m above the ground, sampled at each waypoint
        fixed_points=((5.0, 0.0), (0.0, -5.0), (0.0, 5.0), (-5.0, 0.0)),  # m, in addition to the waypoints
        coarse_head=dict(type='CoarseHead', feature_channels=256, hidden_channels=512),
        prediction_module=dict(type='PredictionModule'),
        camera_look=dict(type='CameraLook', num_heads=8, num_points=8, hidden_channels=512, out_channels=256),
        lidar_look=dict(
            type='LidarLook', hidden_channels=256, point_channels=128, out_channels=256, neighbor_offset=0.1
        ),
        refine_layer=dict(type='RefineLayer', hidden_channels=512),
    ),
    losses=dict(  # by name; None leaves a term out
        action=dict(type='ActionLoss', weight=15.0, future_weight=15.0 * 0.25),
        waypoint=dict(type='WaypointLoss', weight=15.0),
        speed=dict(type='SpeedLoss', weight=1.0, speed_scale='${speed_scale}'),
        value=dict(type='ValueLoss', weight=0.001),
        feature=dict(type='FeatureLoss', weight=0.05),
        bev_feature=dict(
            type='BEVFeatureLoss',
            levels=(2, 3, 4, 5),
            weights=(1 / 4, 1 / 3, 1 / 4, 1 / 11),
            max_error=5.0,
        ),
        refine_feature=dict(
            type='RefineFeatureLoss', map_weight=1 / 4, vector_weight=0.05 * 0.1, level=2, max_error=5.0
        ),
        teacher_forcing_offset=dict(type='TeacherForcingOffsetLoss', waypoint_weight=1.0, action_weight=1.0),
        teacher_forcing_feature=dict(
            type='TeacherForcingFeatureLoss',
            future_weight=1 / 4,
            map_weight=1 / 4,
            vector_weight=0.05,
            level=2,
            max_error=5.0,
        ),
        segmentation=dict(type='SegmentationLoss', weight=10.0, alpha=0.5, gamma=2.0, ignore_index=255),
        depth=dict(
            type='DepthLoss', weight=1.0, depth_bounds='${depth_bounds}', pooling='min', objective='sigmoid'
        ),
        offsets=dict(type='PlanOffsets'),  # logged only
    ),
)
