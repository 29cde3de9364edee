"""A small model on drives of the embedded town: minutes on two CPU cores.

Record drives first: ``python tools/record_minitown.py dataset/minitown`` (``make demo`` does everything).
"""

_base_ = [
    '_base_/models/minitown.py',
    '_base_/datasets/carla.py',
    '_base_/schedules/adamw_cosine_60e.py',
    '_base_/default_runtime.py',
]

is_dev = False  # True: 10 samples, no workers, a log line per step
is_full = False  # True: all towns; False: towns 01, 03, 04, 06 to train and 02, 05 to evaluate

data_root = 'dataset/minitown'
image_size = (64, 128)  # height and width of the network input, pixels
scale_range, flip_probability = (1.0, 1.0), 0.0  # a short training learns faster without augmentation
batch_size = 16  # per rank; batch norm needs 8 at least

data_modes = dict(
    default=dict(
        train_dataloader=dict(num_workers=1),
        val_dataloader=dict(num_workers=1),
        default_hooks=dict(logger=dict(interval=20)),  # log interval, steps
    ),
    full=dict(train_dataloader=dict(num_workers=1), val_dataloader=dict(num_workers=1)),
)
warmup_iters = 50  # steps of linear warm-up
optim_wrapper = dict(optimizer=dict(lr=2e-3))
train_cfg = dict(max_epochs=4, val_interval=4)  # epochs
auto_scale_lr = dict(base_batch_size=16)  # total batch size that lr is chosen for
