"""ThinkTwice as in the paper: ResNet-50, five refine layers, 60 epochs, 16 GPUs with batch size 8 each.

With another number of GPUs add ``--autoscale-lr``.
"""

_base_ = [
    '_base_/models/thinktwice.py',
    '_base_/datasets/carla.py',
    '_base_/schedules/adamw_cosine_60e.py',
    '_base_/default_runtime.py',
]

is_dev = False  # True: 10 samples, no workers, a log line per step
is_full = False  # True: all frames of the metadata; False: the 189K frames used by TCP
