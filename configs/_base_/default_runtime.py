"""Settings common to all runs: startup, logs, checkpoints, guards."""

default_scope = 'thinktwice'
is_dev = False  # True: a few samples, no workers, a log line per step
is_full = False  # True: all frames of the metadata instead of the 189K used by TCP
randomness = dict(seed=0, deterministic=False)
sync_bn = 'torch'  # BatchNorm over all GPUs; None: per GPU. Skipped on the CPU
ema_momentum = None  # momentum of the moving average of the weights, e.g. 2e-4; None: no average
recompute = []  # activation checkpointing for these modules, e.g. ['img_encoder', 'decoder']
compile = None  # True, or arguments of torch.compile and modules=[names]
channels_last = False  # memory format of 2-D convolutions
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(
        backend=None,  # None: nccl on GPUs, gloo on the CPU
        start_minutes=5.0,  # time to wait for all ranks at startup, minutes
        timeout_minutes=30.0,  # timeout of a collective operation, minutes
    ),
)
log_level = 'INFO'
pretrained_dir = 'ckpt/'  # searched for pretrained weights before they are downloaded
load_from = None
resume = False
log_processor = dict(type='HeadlineLogProcessor', window_size=1, by_epoch=True, log_with_hierarchy=True)
visualizer = dict(
    type='Visualizer', vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardBackend')]
)
default_hooks = dict(
    runtime_info=dict(type='ReducedInfoHook'),
    timer=dict(type='EvaluationTimerHook'),
    sampler_seed=None,  # the training loop sets the epoch of the sampler
    logger=dict(type='LoggerHook', interval=None, ignore_last=False),  # log interval, steps
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='AtomicCheckpointHook',
        interval=1,  # epochs
        interval_iters=None,  # iterations
        interval_minutes=None,  # minutes
        keep_last=3,  # epoch_N.pth files to keep, -1: all
        keep_best='open_loop/ade',
        rule='less',
    ),
)
custom_hooks = [
    dict(type='NonFiniteGuardHook', max_in_a_row=5),  # consecutive bad steps before the run stops
    dict(type='StepSetupHook'),
    dict(type='BroadcastBuffersHook'),
    dict(type='SkippedSamplesHook', max_share=0.01),  # largest share of unreadable samples
    dict(type='HealthHook'),
    dict(type='WatchdogHook', minutes=30.0),  # minutes without a completed step
    dict(type='PreemptionHook', signals=('SIGTERM', 'SIGUSR1')),
    dict(type='PicturesHook', count=4),  # samples that are drawn at each evaluation
]
