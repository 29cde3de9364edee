"""A config that only names data: enough for the tools that look at samples."""

from pathlib import Path

TEXT = """
default_scope = 'thinktwice'
is_dev = False
is_full = False
train_dataloader = dict(
    batch_size=1,
    num_workers=0,
    dataset=dict(
        type='CarlaDataset',
        data_root={root!r},
        pipeline=[
            dict(type='LoadMeasurements'),
            dict(type='LoadPoints'),
            dict(type='LoadCameras', image_size=(16, 32), training=True),
            dict(type='LoadWaypoints'),
            dict(type='LoadSupervision'),
            dict(type='PackSample'),
        ],
    ),
)
model = dict(data_preprocessor=dict(
    type='DrivingDataPreprocessor', photometric=dict(type='PhotometricAugmentation')
))
"""


def write_config(folder: Path, root: Path) -> Path:
    """Write a config that reads the dataset at `root` and return its path."""
    path = folder / 'tiny_data.py'
    path.write_text(TEXT.format(root=str(root)))
    return path
