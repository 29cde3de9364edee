"""What every run shares: start-up, logs, checkpoints, guards."""

default_scope = 'thinktwice'
is_dev = False  # True: a few samples, no workers, a log line every step
is_full = False  # True: all frames of the metadata instead of the 189K of TCP
randomness = dict(seed=0, deterministic=False)
sync_bn = 'torch'  # BatchNorm over all GPUs; None: each by itself. Skipped on the CPU
ema_momentum = None  # share of the new weights in their moving average, e.g. 2e-4; None: no average
recompute = []  # parts of the model run again in the backward pass to save memory: ['img_encoder', 'decoder']
compile = None  # True, or arguments of torch.compile and modules=[names of parts]
channels_last = False  # memory format of 2-D convolutions
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(
        backend=None,  # None: nccl on GPUs, gloo on the CPU
        start_minutes=5.0,  # wait for all processes to appear, minutes
        timeout_minutes=30.0,  # longest time of one collective operation, minutes
    ),
)
log_level = 'INFO'
pretrained_dir = 'ckpt/'  # where weights that init_cfg names are looked for before they are downloaded
load_from = None
resume = False
log_processor = dict(window_size=1, by_epoch=True, log_with_hierarchy=True)
visualizer = dict(
    type='Visualizer', vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
)
default_hooks = dict(
    runtime_info=dict(type='ReducedInfoHook'),
    timer=dict(type='EvaluationTimerHook'),
    sampler_seed=None,  # the training loop places the sampler itself
    logger=dict(type='LoggerHook', interval=None, ignore_last=False),  # steps between two log lines
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='AtomicCheckpointHook',
        interval=1,  # epochs
        interval_iters=None,  # iterations
        interval_minutes=None,  # minutes
        keep_last=-1,  # files of epochs, -1: all
        keep_best='open_loop/ade',
        rule='less',
    ),
)
custom_hooks = [
    dict(type='NonFiniteGuardHook', max_in_a_row=5),  # bad steps in a row before the run stops
    dict(type='StepSetupHook'),
    dict(type='BroadcastBuffersHook'),
    dict(type='SkippedSamplesHook', max_share=0.01),  # share of unreadable samples
    dict(type='WatchdogHook', minutes=30.0),  # minutes without a finished step
    dict(type='PreemptionHook', signals=('SIGTERM', 'SIGUSR1')),
]
