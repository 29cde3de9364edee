"""Recorded drives: pipelines, loaders, splits, and the changes made by is_dev and is_full."""

data_root = 'dataset/'  # folder with dataset_metadata.json (or .pkl) and townNN_XX/
num_frames = 2  # frames of the queue, the key frame included; 0.5 s apart in CARLA's recordings
horizon = 4  # future frames that are predicted and supervised
image_size = (448, 896)  # height and width of the network input, pixels
cameras = None  # names of the cameras to use, in order; None: all cameras of the calibration
batch_size = 8  # per rank
scale_range = (1.0, 0.6255 / 0.56)  # of training images, relative to the smallest: 0.56..0.6255 for 1600x900
flip_probability = 0.5  # of training images

# steps of the pipelines; None leaves a step out
load_measurements = dict(type='LoadMeasurements')  # poses, speed, target point, command
load_points = dict(type='LoadPoints')  # LiDAR sweeps of the queue in the key ego frame
load_cameras = dict(
    type='LoadCameras',
    image_size='${image_size}',
    cameras='${cameras}',
    training=True,  # the samples of a dataset with test_mode are not augmented
    scale_range='${scale_range}',
    flip_probability='${flip_probability}',
    with_labels=True,  # depth and classes
)
load_waypoints = dict(type='LoadWaypoints')
load_supervision = dict(
    type='LoadSupervision',
    levels=(2, 3, 4, 5),
    future_level=2,
    brake_alpha=0.8,
    brake_beta=5.5,
    with_features=True,  # value, feature and BEV maps of the teacher besides its actions
)
train_pipeline = [
    '${load_measurements}',
    '${load_points}',
    '${load_cameras}',
    '${load_waypoints}',
    '${load_supervision}',
    dict(type='PackSample'),
]
test_pipeline = [
    '${load_measurements}',
    '${load_points}',
    '${load_cameras}',
    '${load_waypoints}',
    '${load_supervision}',
    dict(type='PackSample'),
]
train_dataloader = dict(
    batch_size='${batch_size}',
    num_workers=None,  # worker processes; None: set by data_modes
    persistent_workers=True,  # keep the workers between epochs
    dataset=dict(
        type='CarlaDataset',
        data_root='${data_root}',
        pipeline='${train_pipeline}',
        split=None,  # None: set by data_modes
        num_frames='${num_frames}',
        horizon='${horizon}',
        seed='${randomness.seed}',
        on_error='skip',  # unreadable samples are replaced and counted
    ),
    sampler=dict(type='TrainSampler', batch_size='${batch_size}'),
    collate_fn=dict(type='thinktwice.collate_samples'),
)
val_dataloader = dict(
    batch_size='${batch_size}',
    num_workers=None,
    persistent_workers=True,  # keep the workers between epochs
    drop_last=False,  # evaluate the last batch, too
    dataset=dict(
        type='CarlaDataset',
        data_root='${data_root}',
        pipeline='${test_pipeline}',
        split=None,
        num_frames='${num_frames}',
        horizon='${horizon}',
        test_mode=True,
        on_error='skip',  # replaced samples are excluded from the metrics
    ),
    sampler=dict(type='EvalSampler'),
    collate_fn=dict(type='thinktwice.collate_samples'),
)
test_dataloader = '${val_dataloader}'
val_evaluator = [
    dict(type='OpenLoopMetric', speed_bands=(1.0, 3.0, 6.0)),  # bounds between bands, m/s
    dict(type='PerceptionMetric', depth_bounds='${depth_bounds}', near=15.0),  # near: m, see recall_near
]
test_evaluator = '${val_evaluator}'

_indices = ['val', *(f'{index:02d}' for index in range(12))]  # recording runs of each town
_towns = [f'town{number:02d}' for number in (1, 2, 3, 4, 5, 6, 7, 10)]
_caps = dict(  # samples per town as in TCP: 189,524 for training and 109,627 for evaluation
    town01=50384, town02=55943, town03=42771, town04=47954, town05=53684, town06=48415, town07=51549,
    town10=59898,
)  # fmt: skip
_train = dict(towns=['town01', 'town03', 'town04', 'town06'], indices=_indices, caps=_caps)
_val = dict(towns=['town02', 'town05'], indices=_indices, caps=_caps)
_dev = dict(towns=['town01'], indices=['00'], caps=10)  # 10 samples
data_modes = dict(  # values for keys that are None in the config
    default=dict(
        train_dataloader=dict(num_workers=8, dataset=dict(split=_train)),
        val_dataloader=dict(num_workers=8, dataset=dict(split=_val)),
        default_hooks=dict(logger=dict(interval=50)),  # log interval, steps
    ),
    full=dict(
        train_dataloader=dict(
            num_workers=8, dataset=dict(split=dict(towns=_towns, indices=_indices[1:], caps=None))
        ),
        val_dataloader=dict(
            num_workers=8, dataset=dict(split=dict(towns=_towns, indices=['val'], caps=None))
        ),
        default_hooks=dict(logger=dict(interval=50)),
    ),
    dev=dict(
        train_dataloader=dict(num_workers=0, dataset=dict(split=_dev)),
        val_dataloader=dict(num_workers=0, dataset=dict(split=_dev)),
        default_hooks=dict(logger=dict(interval=1)),
    ),
)
