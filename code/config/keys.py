"""Top-level keys of a config that the package reads, and their types."""

from typing import Annotated, Any, Literal, TypedDict

from thinktwice.config.annotations import AtLeast, AtMost

Natural = Annotated[int, AtLeast(0)]
Count = Annotated[int, AtLeast(1)]


class DistributedKeys(TypedDict, total=False):
    """Arguments of ``distributed.launch.start_distributed``."""

    backend: str | None
    start_minutes: Annotated[float, AtLeast(0)]
    timeout_minutes: Annotated[float, AtLeast(0)]


class MultiprocessingKeys(TypedDict, total=False):
    """Arguments of mmengine's ``set_multi_processing``."""

    mp_start_method: str  # how loader workers start: 'fork' or 'spawn'
    opencv_num_threads: int  # threads that OpenCV starts in each process


class EnvironmentKeys(TypedDict, total=False):
    """Startup of a process."""

    cudnn_benchmark: bool  # choose the fastest convolution algorithm by trying
    mp_cfg: MultiprocessingKeys
    dist_cfg: DistributedKeys


class RandomnessKeys(TypedDict, total=False):
    """Seeds; see mmengine's ``Runner.set_randomness``."""

    # for weights, order of samples and augmentation; None: another one for each run
    seed: Annotated[int, AtLeast(0), AtMost(2**32 - 1)] | None
    deterministic: bool  # deterministic algorithms only
    diff_rank_seed: bool  # add the rank to the seed


class ScaleKeys(TypedDict, total=False):
    """Scaling of the learning rate."""

    enable: bool  # scale the learning rate (--autoscale-lr)
    base_batch_size: Count  # samples of a step over all ranks that the learning rate is chosen for


class ImportKeys(TypedDict, total=False):
    """Modules that register parts of a user's own."""

    imports: str | list[str]
    allow_failed_imports: bool


class CompileKeys(TypedDict, total=False):
    """What to compile; other keys are arguments of ``torch.compile``."""

    modules: str | list[str]


class LoaderKeys(TypedDict, total=False):
    """A loader; other keys are arguments of torch's ``DataLoader``."""

    batch_size: Count  # samples per rank
    num_workers: Natural  # worker processes per rank
    prefetch_factor: Count | None
    timeout: Annotated[float, AtLeast(0)]
    dataset: dict
    sampler: dict | None
    collate_fn: dict


class TrainKeys(TypedDict, total=False):
    """The training loop."""

    max_epochs: Count
    max_iters: Count | None
    val_interval: Count


class ParamwiseKeys(TypedDict, total=False):
    """Options of mmengine's ``DefaultOptimWrapperConstructor``."""

    bias_lr_mult: float
    bias_decay_mult: float
    norm_decay_mult: float
    dwconv_decay_mult: float
    flat_decay_mult: float
    dcn_offset_lr_mult: float
    bypass_duplicate: bool
    custom_keys: dict[str, dict[str, Any]]


class OptimKeys(TypedDict, total=False):
    """The optimizer wrapper."""

    optimizer: dict
    accumulative_counts: Count
    clip_grad: dict | None
    paramwise_cfg: ParamwiseKeys | None


class LogKeys(TypedDict, total=False):
    """Arguments of mmengine's ``LogProcessor`` that it reads when a line is due; it may have others."""

    window_size: Count
    by_epoch: bool
    num_digits: Natural


class RunnerKeys(TypedDict, total=False):
    """Keys that the runner reads even where a config does not have them."""

    auto_scale_lr: ScaleKeys
    channels_last: bool
    compile: bool | CompileKeys | None
    custom_hooks: list[dict] | None
    default_hooks: dict[str, dict | None]
    ema_momentum: float | None
    env_cfg: EnvironmentKeys
    experiment_name: str | None  # in logs; None: name of the config and time
    is_dev: bool
    is_full: bool
    launcher: str  # set by --launcher
    load_from: str | None  # file with the weights to start from (--load-from)
    log_level: Literal['DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL']  # least severe messages to log
    log_processor: LogKeys | None
    model_wrapper_cfg: dict | None  # arguments of DistributedDataParallel
    param_scheduler: dict | list[dict] | None
    pretrained_dir: str
    randomness: RandomnessKeys
    recompute: str | list[str] | None
    resume: bool | str  # continue from the latest checkpoint, or from a file (--resume)
    strict_load: bool  # refuse weights that do not all fit by name; default True
    sync_bn: str | None
    test_cfg: dict | None  # the loop of testing
    trust_checkpoint: bool  # set by --trust-checkpoint
    visualizer: dict | None
    work_dir: str | None  # folder of the run; None: work_dirs/<name of the config>


class PartKeys(TypedDict, total=False):
    """Keys that the runner reads and that a config has to have for it."""

    model: dict
    optim_wrapper: OptimKeys | None
    test_dataloader: LoaderKeys | None  # what tools/test.py reads
    test_evaluator: dict | list[dict] | None  # metrics of tools/test.py
    train_cfg: TrainKeys | None
    train_dataloader: LoaderKeys | None
    val_cfg: dict | None  # the loop of evaluations during training
    val_dataloader: LoaderKeys | None
    val_evaluator: dict | list[dict] | None


class ConfigKeys(RunnerKeys, PartKeys, total=False):
    """All keys of a config that are read."""

    custom_imports: ImportKeys | None  # modules with parts of your own, see docs/models.md
    data_modes: dict[str, dict] | None
    default_scope: str  # registry in which names without a prefix are looked up first


RUNNER_KEYS = frozenset(RunnerKeys.__annotations__)
READ_KEYS = frozenset(ConfigKeys.__annotations__)
