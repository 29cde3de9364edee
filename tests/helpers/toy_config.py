custom_imports = dict(imports=['toy_parts'], allow_failed_imports=False)
_base_ = ['../../configs/_base_/default_runtime.py']
is_dev = False
is_full = False
default_hooks = dict(logger=dict(interval=None))
data_modes = dict(
    default=dict(
        default_hooks=dict(logger=dict(interval=50)), train_dataloader=dict(dataset=dict(num_samples=24))
    ),
    full=dict(
        default_hooks=dict(logger=dict(interval=50)), train_dataloader=dict(dataset=dict(num_samples=40))
    ),
    dev=dict(default_hooks=dict(logger=dict(interval=1)), train_dataloader=dict(dataset=dict(num_samples=8))),
)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    dataset=dict(type='ToyPlans', num_samples=None),
    sampler=dict(type='TrainSampler', batch_size=4),
    collate_fn=dict(type='thinktwice.collate_toy'),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=0,
    dataset=dict(type='ToyPlans', num_samples=10),
    sampler=dict(type='EvalSampler'),
    collate_fn=dict(type='thinktwice.collate_toy'),
)
val_evaluator = dict(type='OpenLoopMetric')
model = dict(type='ToyPlanner')
optim_wrapper = dict(
    type='GuardedOptimWrapper',
    optimizer=dict(type='AdamW', lr=0.01, weight_decay=1e-7),
    clip_grad=dict(max_norm=100),
)
param_scheduler = [
    dict(type='CosineAnnealingLR', T_max=3, eta_min=0, by_epoch=True, convert_to_iter_based=True)
]
train_cfg = dict(type='ResumableTrainLoop', max_epochs=3)
val_cfg = dict(type='ValLoop')
