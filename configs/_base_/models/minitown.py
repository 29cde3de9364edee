"""A small version of the paper's model: narrow encoders, coarse LiDAR voxels, one refine layer."""

_base_ = ['thinktwice.py']

num_refine_layers = 1
speed_scale = 1.0  # m/s, unit of the predicted speed
model = dict(
    data_preprocessor=dict(photometric=None),
    img_encoder=dict(
        backbone=dict(depth=18, base_channels=16, init_cfg=None),
        neck=dict(in_channels=[16, 32, 64, 128], out_channels=32),
        depth_net=dict(
            camera_norm='fixed',  # with one rig, the camera parameters have no variance
            in_channels=32,
            mid_channels=32,
            context_channels=64,
            aspp_dilations=(1, 2, 3, 4),
            aspp_dropout=0.0,
        ),
        seg_head=dict(in_channels=(32, 32, 32, 32), up_channels=(32, 32, 16), head_channels=16),
        seg_branch=dict(units=((16, 1, 1), (16, 3, 2), (32, 3, 2))),
        neck_channels=32,
        lift_level=1,  # stride 8: at stride 16 an image of 64 x 128 pixels has 4 x 8 places
        out_channels=64,
    ),
    lidar_encoder=dict(
        voxelize=dict(
            voxel_size=(0.80419, 0.80419, 0.5),  # m
            max_num_points=5,
            max_voxels=(4000, 4000),
        ),
        middle_encoder=dict(
            sparse_shape=(17, None, None),  # z, y, x: z up to 4.5 m
            base_channels=8,
            output_channels=16,
            encoder_channels=((8, 16), (16,)),
            encoder_paddings=((0, 1), (0,)),
            norm_cfg=dict(momentum=0.1),  # of the paper's 0.01, the initial statistics outlast the training
        ),
        backbone=dict(
            in_channels=64,
            out_channels=[32, 32],
            layer_nums=[1, 1],
            layer_strides=[1, 1],
            norm_cfg=dict(momentum=0.1),
        ),
        neck=dict(
            in_channels=[32, 32],
            out_channels=[32, 32],
            upsample_strides=[1, 1],
            norm_cfg=dict(momentum=0.1),
        ),
    ),
    # without the norm, most units of the BEV map are zero for all samples after a short training
    bev_fusion=dict(camera_channels=64, lidar_channels=64, lidar_strides=(1, 1), reduce_norm=True),
    # the statistics of observed and predicted maps differ, and their mixture harms a short training
    flatten_head=dict(separate_norms=True),
    # inputs of about 1 are learned first; a speed that is missing at times makes the model look
    measurement_encoder=dict(speed_scale=0.25, target_scale=10.0, speed_dropout=0.1),
    decoder=dict(
        fpn_channels=32,
        image_channels=64,
        lidar_channels=64,
        embed_channels=32,
        camera_look=dict(num_heads=4, num_points=4, hidden_channels=128, out_channels=64),
        lidar_look=dict(hidden_channels=64, point_channels=16, out_channels=64),
        coarse_head=dict(hidden_channels=256),
        refine_layer=dict(hidden_channels=128),
    ),
    # Perception is learned from labels and teacher before the plan is: with the paper's weights the errors
    # of an untrained plan drown what the teacher says about the BEV map, and the model learns to drive blind.
    losses=dict(
        action=dict(weight=0.03, future_weight=0.03 * 0.25),
        waypoint=dict(weight=0.03, beta=0.1),  # small errors count, as in the metrics
        speed=dict(weight=0.002),
        value=dict(weight=0.01),
        feature=dict(weight=1.0),
        bev_feature=dict(weights=(4.0, 2.0, 1.0, 1.0), vector_weight=2.0),
        refine_feature=dict(map_weight=0.005, vector_weight=0.005),
        teacher_forcing_offset=dict(waypoint_weight=0.005, action_weight=0.005),
        teacher_forcing_feature=dict(future_weight=0.01, map_weight=0.005, vector_weight=0.005),
        segmentation=dict(
            # background, building, pedestrian, pole, line, road, sidewalk, vehicle, sign, lights
            class_weights=(1.0, 1.0, 5.0, 2.0, 1.0, 1.0, 1.0, 2.0, 2.0, 5.0, 15.0, 15.0),
        ),
        # lift-splat uses the softmax of the logits; trained as such, depth is learned sooner
        depth=dict(objective='softmax'),
    ),
)
