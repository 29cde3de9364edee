"""The computation of the 2023 release, including its errors, for the official checkpoint.

``tools/convert_checkpoint.py`` converts the checkpoint, docs/reference_quirks.md lists the differences
to ``thinktwice.py``, and ``tools/check_parity.py`` compares with stored outputs of the 2023 code.
"""

_base_ = ['thinktwice.py']

x_range = (-8.0, 30.4)  # m
y_range = (-19.2, 19.2)  # m
bev_cell = 1.8285  # m
load_measurements = dict(type='ReferenceLoadMeasurements')
load_points = dict(type='ReferenceLoadPoints')
load_cameras = dict(type='ReferenceLoadCameras')
load_waypoints = dict(type='ReferenceLoadWaypoints')

model = dict(
    data_preprocessor=dict(
        # the schedule as it ran: 1481 steps per epoch, counted separately by each of 8 workers
        photometric=dict(type='ReferencePhotometricAugmentation', steps_per_epoch=1481, num_workers=8),
    ),
    img_encoder=dict(
        type='ReferenceLSSCameraEncoder',
        view_transform=dict(type='ReferenceLiftSplat'),
    ),
    lidar_encoder=dict(
        type='ReferenceLidarEncoder',
        voxelize=dict(voxel_size=(0.0571428, 0.0571428, 0.2)),
    ),
    decoder=dict(
        type='ReferenceThinkTwiceDecoder',
        prediction_module=dict(type='ReferencePredictionModule'),
        camera_look=dict(type='ReferenceCameraLook'),
        lidar_look=dict(type='ReferenceLidarLook'),
        refine_layer=dict(type='ReferenceRefineLayer'),
    ),
    losses=dict(segmentation=dict(type='ReferenceSegmentationLoss')),
)
