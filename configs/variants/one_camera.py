"""The town's model with the front camera alone."""

_base_ = ['../thinktwice_minitown.py']

cameras = ['front']
num_cameras = 1
