"""The town's model for data of six cameras, all of those in the dataset's calibration."""

_base_ = ['../thinktwice_minitown.py']

num_cameras = 6
