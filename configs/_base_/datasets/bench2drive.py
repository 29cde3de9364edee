"""Clips of Bench2Drive: the splits of its authors, six cameras, no teacher (docs/bench2drive.md)."""

_base_ = ['carla.py']

data_root = 'dataset/bench2drive'  # folder of the clips, after tools/generate_metadata.py; or packed
phases = (0,)  # of the 10 Hz recording; (0, 1, 2, 3, 4): every frame is a key frame
load_supervision = dict(with_features=False)  # actions only

train_dataloader = dict(dataset=dict(type='Bench2DriveDataset', phases='${phases}'))
val_dataloader = dict(dataset=dict(type='Bench2DriveDataset', phases='${phases}'))

_towns = [f'town{number:02d}' for number in (1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 15)] + ['town10hd']
_train = dict(_delete_=True, towns=_towns, indices=['train'])  # 950 clips of the base set
_val = dict(_delete_=True, towns=_towns, indices=['val'])  # 50
_dev = dict(_delete_=True, towns=_towns, indices=['train'], caps=2)  # samples of each town
data_modes = dict(
    default=dict(
        train_dataloader=dict(dataset=dict(split=_train)), val_dataloader=dict(dataset=dict(split=_val))
    ),
    full=dict(
        train_dataloader=dict(dataset=dict(split=_train)), val_dataloader=dict(dataset=dict(split=_val))
    ),
    dev=dict(train_dataloader=dict(dataset=dict(split=_dev)), val_dataloader=dict(dataset=dict(split=_dev))),
)
