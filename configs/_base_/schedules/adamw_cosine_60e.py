"""The paper's schedule: AdamW, linear warm-up, cosine over 60 epochs; 16 GPUs with batch size 8 each."""

warmup_iters = 1000  # steps of linear warm-up
optim_wrapper = dict(
    type='GuardedOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=1e-7, fused=True),
    clip_grad=dict(max_norm=100),  # L2 norm of all gradients together
    accumulative_counts=1,  # batches per optimizer step
    amp_dtype=None,  # None: float32; 'bfloat16' (--amp) or 'float16'
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1 / 3, by_epoch=False, begin=0, end='${warmup_iters}'),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=1e-3,  # last learning rate relative to the first
        by_epoch=True,
        begin=0,
        end='${train_cfg.max_epochs}',
        T_max='${train_cfg.max_epochs}',
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(
    type='ResumableTrainLoop',
    max_epochs=60,  # epochs
    max_iters=None,  # stop after this number of steps
    val_interval=1,  # epochs between two evaluations
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
auto_scale_lr = dict(enable=False, base_batch_size=128)  # total batch size that lr is chosen for
