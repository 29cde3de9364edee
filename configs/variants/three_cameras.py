"""The town's model with three cameras, none of them looking back."""

_base_ = ['../thinktwice_minitown.py']

cameras = ['left', 'front', 'right']
num_cameras = 3
