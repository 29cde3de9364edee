"""The computation of the 2023 release, its slips included, for the official checkpoint.

Convert that with ``tools/convert_checkpoint.py``; docs/reference_quirks.md tells what differs from
``thinktwice.py``, and ``tools/check_parity.py`` compares with stored outputs of the 2023 code.
"""

_base_ = ['thinktwice.py']

load_measurements, load_waypoints = 'ReferenceLoadMeasurements', 'ReferenceLoadWaypoints'
load_points, load_cameras = 'ReferenceLoadPoints', 'ReferenceLoadCameras'
segmentation_loss = 'ReferenceSegmentationLoss'

model = dict(
    data_preprocessor=dict(
        # the schedule as it ran: 1481 steps an epoch, counted by each of 8 worker processes alone
        photometric=dict(type='ReferencePhotometricAugmentation', steps_per_epoch=1481, num_workers=8),
    ),
    img_encoder=dict(
        type='ReferenceLSSCameraEncoder',
        view_transform=dict(type='ReferenceLiftSplat'),
    ),
    lidar_encoder=dict(type='ReferenceLidarEncoder'),
    decoder=dict(
        type='ReferenceThinkTwiceDecoder',
        prediction_module=dict(type='ReferencePredictionModule'),
        camera_look=dict(type='ReferenceCameraLook'),
        lidar_look=dict(type='ReferenceLidarLook'),
        refine_layer=dict(type='ReferenceRefineLayer'),
    ),
)
