"""mmengine's runner with model wrapping on any device, safe checkpoints and exact resuming."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import broadcast_object_list, get_rank, is_main_process
from mmengine.model import MMDistributedDataParallel, convert_sync_batchnorm, revert_sync_batchnorm
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from thinktwice.checkpoint.file import check_training_state, load_checkpoint, save_checkpoint
from thinktwice.checkpoint.pretrained import use_pretrained_folder
from thinktwice.checkpoint.run_folder import find_latest_checkpoint
from thinktwice.checkpoint.weights import load_weights
from thinktwice.core import model_options
from thinktwice.core.data_fit import check_data_fits
from thinktwice.core.hooks.averaging import AveragedWeightsHook
from thinktwice.core.hooks.checkpoint import AtomicCheckpointHook
from thinktwice.core.loader_workers import init_worker
from thinktwice.core.loops import ResumableTrainLoop
from thinktwice.core.optim_wrapper import check_paramwise
from thinktwice.core.rehearsal import first_batch, rehearse_evaluation, rehearse_losses
from thinktwice.core.training_state import (
    collect_training_state,
    restore_training_state,
    select_weights_in_training,
)
from thinktwice.distributed.collectives import on_rank_0, statistics_of_all
from thinktwice.environment import collect_environment, write_environment
from thinktwice.errors import CheckpointError, ConfigError, as_config_error, as_user_error
from thinktwice.files import write_text
from thinktwice.tables import format_table

WRAPPER = 'MMDistributedDataParallel'
STRICT_LOAD_HINT = 'To load the weights that fit by name, pass --cfg-options strict_load=False.'


class DrivingRunner(Runner):
    """Runner of this package; its config keys are mmengine's.

    It differs from mmengine 0.10.7 in this: models are wrapped without a GPU, too, with a log line when
    SyncBN is skipped; checkpoints hold plain containers only, are written atomically and read with
    ``weights_only=True``; a run resumes at the batch where it stopped; missing or unexpected weights are
    an error unless ``cfg.strict_load`` is False. It has the additional config keys ``channels_last``,
    ``recompute``, ``compile`` (see ``model_options``), ``ema_momentum`` (see ``AveragedWeightsHook``) and
    ``pretrained_dir`` (see ``use_pretrained_folder``).
    """

    # configs until they are built; mmengine leaves them untyped
    optim_wrapper: Any
    _train_loop: Any
    _val_loop: Any
    #: Checkpoint of the run that this one continues.
    resumed_from: str | None = None

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Move the model to its device and wrap it for distributed training if there are several ranks."""
        on_gpu = torch.cuda.is_available()
        model = model.to('cuda' if on_gpu else 'cpu')
        if self._train_dataloader is not None:
            self._rehearse_training(model)
        if self.cfg.get('channels_last'):
            model_options.use_channels_last(model)
        model = self._with_sync_bn(model, on_gpu)
        if self.cfg.get('recompute') and self.cfg.get('compile'):
            model_options.check_recompute_and_compile(self.cfg.recompute, self.cfg.compile)
        if self.cfg.get('recompute'):
            model_options.recompute_activations(model, self.cfg.recompute)
        if self.cfg.get('compile'):
            model_options.compile_parts(model, self.cfg.compile)
        wrapper = (model_wrapper_cfg or {}).get('type', WRAPPER)
        if wrapper not in (WRAPPER, MMDistributedDataParallel):
            raise ConfigError(f'model_wrapper_cfg.type={wrapper!r} is not supported, only {WRAPPER!r} is')
        if not self.distributed:
            return model
        model_options.keep_gradient_strides(model)
        model_options.share_label_counts(model)
        # as views of the buckets that ranks exchange, gradients are neither copied nor held twice
        options = dict(forward_sync_buffers=False, find_unused_parameters=False, gradient_as_bucket_view=True)
        options.update(model_wrapper_cfg or {})
        options.pop('type', None)
        device_ids = [torch.cuda.current_device()] if on_gpu else None
        return MMDistributedDataParallel(module=model, device_ids=device_ids, **options)

    def _rehearse_training(self, model: nn.Module) -> None:
        """Compute the losses of two samples; on several ranks, freeze what they do not use."""
        batch = first_batch(self._train_dataloader, 2)
        if not self.distributed:
            rehearse_losses(model, batch)
        elif frozen := model_options.freeze_unused_parameters(model, batch):
            names = ', '.join(frozen[:3]) + (', ...' if len(frozen) > 3 else '')
            self.logger.info(f'{len(frozen)} parameters that no loss uses are frozen ({names})')

    def _with_sync_bn(self, model: nn.Module, on_gpu: bool) -> nn.Module:
        """Convert BatchNorm to SyncBN if the config says so; it exists only on GPUs."""
        sync_bn = self.cfg.get('sync_bn')
        if self.distributed and sync_bn and on_gpu:
            return convert_sync_batchnorm(model, sync_bn)
        if self.distributed and sync_bn:
            self.logger.info('sync_bn is skipped on the CPU: each rank normalizes by its own batch')
        return revert_sync_batchnorm(model)

    def build_model(self, model: nn.Module | dict) -> nn.Module:
        """Build the model, after the loaders: what is wrong with the data shows before anything slow."""
        diff_rank_seed = self._randomness_cfg.get('diff_rank_seed', False)
        for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            if (loader := getattr(self, f'_{name}')) is not None:
                with as_config_error(name, self.cfg):
                    setattr(self, f'_{name}', self.build_dataloader(loader, self.seed, diff_rank_seed))
        with as_config_error('model', self.cfg):
            return super().build_model(model)

    def _init_model_weights(self) -> None:
        """Initialize the weights, pretrained ones from ``cfg.pretrained_dir`` first. Collective."""
        use_pretrained_folder(Path(self.cfg.get('pretrained_dir', 'ckpt')), self.cfg.model)
        super()._init_model_weights()

    def _maybe_compile(self, target: str) -> None:
        """Do nothing: ``wrap_model`` has compiled the parts that ``cfg.compile`` names."""

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """Build the optimizer of the model; what mmengine would ignore in ``paramwise_cfg`` is an error."""
        if isinstance(optim_wrapper, dict):
            check_paramwise(optim_wrapper, self.bare_model)
        with file_only(self.logger):  # mmengine lists the options of each parameter
            return super().build_optim_wrapper(optim_wrapper)

    def build_param_scheduler(self, scheduler: Any) -> Any:
        """Build the schedules of the optimizer."""
        with as_config_error('param_scheduler', self.cfg):
            return super().build_param_scheduler(scheduler)

    def scale_lr(self, optim_wrapper: Any, auto_scale_lr: dict | None = None) -> None:
        """Scale the learning rate by the samples per optimizer step, accumulated batches included."""
        if auto_scale_lr and auto_scale_lr.get('enable'):
            batches = self.cfg.optim_wrapper.get('accumulative_counts', 1)
            base = auto_scale_lr['base_batch_size'] / batches
            super().scale_lr(optim_wrapper, {'enable': True, 'base_batch_size': base})

    def register_default_hooks(self, hooks: dict | None = None) -> None:
        """Register the default hooks, and the moving average of the weights if the config has one."""
        super().register_default_hooks(hooks)
        if self.cfg.get('ema_momentum') is not None and self._train_loop is not None:
            self.register_hook(AveragedWeightsHook(self.cfg.ema_momentum))

    def _log_env(self, env_cfg: dict) -> None:
        """Write environment and config, hundreds of lines, to the log folder only."""
        if self.rank != 0:
            return
        environment = collect_environment()
        write_environment(self.log_dir, environment)
        settings = {**env_cfg, **self._randomness_cfg, 'seed': self.seed, 'launcher': self._launcher}
        settings['world size'] = self.world_size
        rows = [*environment.items(), *((name, str(value)) for name, value in settings.items())]
        with file_only(self.logger):
            self.logger.info(f'environment:\n{format_table(("name", "value"), rows)}')
            self.logger.info(f'config:\n{self.cfg.pretty_text}')
        self.logger.info(f'logs, config and environment: {self.log_dir}')

    def get_hooks_info(self) -> str:
        """Names of the hooks in order of priority; mmengine lists them again for every stage."""
        return ', '.join(type(hook).__name__ for hook in self.hooks)

    def build_dataloader(
        self, dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """Build a loader whose workers ignore signals to all ranks; check that the data fits the model."""
        if isinstance(dataloader, dict):
            workers = dict(num_workers=dataloader.get('num_workers', 0), rank=get_rank(), seed=seed or 0)
            # with page-locked memory, copies to the GPU overlap with its computation
            defaults = dict(
                worker_init_fn=dict(type=init_worker, **workers), pin_memory=torch.cuda.is_available()
            )
            dataloader = {**defaults, **dataloader}
        loader = Runner.build_dataloader(dataloader, seed, diff_rank_seed)
        metainfo = getattr(loader.dataset, 'metainfo', {})
        check_data_fits(self.cfg.get('model', {}), metainfo, self._train_dataloader is not None)
        return loader

    def build_all(self) -> None:
        """Build optimizer and loops and evaluate one sample, so that errors appear before training."""
        self._train_loop = self.build_train_loop(self._train_loop)
        if not isinstance(self._train_loop, ResumableTrainLoop):
            name = type(self._train_loop).__name__
            raise ConfigError(
                f'train_cfg.type={name!r} cannot be resumed: use ResumableTrainLoop or a subclass'
            )
        self.optim_wrapper = self.build_optim_wrapper(self.optim_wrapper)
        if self._val_loop is not None:
            self._val_loop = self.build_val_loop(self._val_loop)
            rehearse_evaluation(self.bare_model, self._val_loop)
        self.logger.info(describe_run(self))

    @property
    def bare_model(self) -> nn.Module:
        """The model without its wrapper for distributed training."""
        return self.model.module if isinstance(self.model, MMDistributedDataParallel) else self.model

    @property
    def checkpoint_folders(self) -> list[Path]:
        """Where ``--resume`` looks for checkpoints: in the folder they are saved to, then in the work dir."""
        folders = [hook.folder(self) for hook in self.hooks if isinstance(hook, AtomicCheckpointHook)]
        return list(dict.fromkeys([*folders, Path(self.work_dir)]))

    def load_or_resume(self) -> None:
        """Load weights or resume a run, as ``load_from`` and ``resume`` say. Collective."""
        if self._has_loaded:
            return
        if self._resume and (self._resume == 'auto' or self._load_from is None):
            self._resume_or_start()
        elif self._resume:
            self.resume(self._load_from)
        elif self._load_from is not None:
            self.load_checkpoint(self._load_from)

    def _resume_or_start(self) -> None:
        """Resume from the newest checkpoint; if there is none, start anew, from ``load_from`` if given."""
        latest: list[str | None] = [None]
        if is_main_process():
            found = map(find_latest_checkpoint, self.checkpoint_folders)
            latest = [next((str(path) for path in found if path), None)]
        broadcast_object_list(latest)
        if latest[0] is not None:
            self.resume(latest[0])
            return
        places = ' or '.join(map(str, self.checkpoint_folders))
        self.logger.info(f'no checkpoint in {places}: training starts from the beginning')
        self._resume = False  # the weights of load_from are not those of a run to resume
        if self._load_from is not None:
            self.load_checkpoint(self._load_from)

    def load_checkpoint(
        self, filename: str, map_location: Any = 'cpu', strict: bool | None = None, revise_keys: Any = ()
    ) -> dict:
        """Load weights.

        Args:
            filename: Checkpoint of this package, of mmengine, or a bare state dict.
            map_location: Device to load to.
            strict: Whether weights that are missing, unexpected or of another shape are an error.
                None for ``cfg.strict_load`` (default True).
            revise_keys: Unused; the prefix ``module.`` is always removed.

        Returns:
            The checkpoint.

        Raises:
            CheckpointError: The file cannot be read, or does not fit the model.
        """
        with as_user_error(CheckpointError, lambda: f'checkpoint {filename} cannot be used'):
            trust = bool(self.cfg.get('trust_checkpoint', False))
            checkpoint = load_checkpoint(filename, map_location, trust)
            if self._resume:
                check_training_state(filename, checkpoint)
                select_weights_in_training(self, checkpoint, filename)
            self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
            strict = self.cfg.get('strict_load', True) if strict is None else strict
            load_weights(
                self.bare_model, checkpoint, filename, strict, hint='' if self._resume else STRICT_LOAD_HINT
            )
            self._has_loaded = True
            self.logger.info(f'loaded weights from {filename}')
            return checkpoint

    def resume(self, filename: str, map_location: Any = 'cpu') -> None:
        """Resume the run that wrote ``filename`` at the step after its last one.

        Raises:
            CheckpointError: The file does not fit the model, or holds no training state that fits.
        """
        self._resume = True
        checkpoint = self.load_checkpoint(filename, map_location, strict=True)
        with as_user_error(CheckpointError, lambda: f'the state of training in {filename} cannot be used'):
            restore_training_state(self, checkpoint, filename)
        self.resumed_from = filename
        self.logger.info(f'resumed from {filename}: epoch {self.epoch}, iteration {self.iter}')

    def save_checkpoint(self, out_dir: str, filename: str, **unused: Any) -> None:
        """Save a checkpoint as ``out_dir/filename``; rank 0 writes. Collective.

        Raises:
            WriteError: The file cannot be written; raised on all ranks.
        """
        statistics = statistics_of_all(self.bare_model)

        def write() -> None:
            state = dict(collect_training_state(self), statistics_of_processes=statistics)
            save_checkpoint(state, Path(out_dir) / filename)

        on_rank_0(write)

    def dump_config(self) -> None:
        """Write the resolved config of a training to the work dir; only rank 0 does.

        Neither the file that the config was read from nor, in an evaluation, that of the
        training is replaced.
        """
        if not is_main_process() or self._train_dataloader is None:
            return
        source = Path(self.cfg.filename or f'{self.timestamp}.py')
        path = Path(self.work_dir, source.name)
        if path.resolve() != source.resolve():
            write_text(path, self.cfg.pretty_text)


@contextmanager
def file_only(logger: logging.Logger) -> Iterator[None]:
    """Write a logger's messages to its files only, not to the terminal."""
    consoles = [handler for handler in logger.handlers if not isinstance(handler, logging.FileHandler)]
    levels = [handler.level for handler in consoles]
    for handler in consoles:
        handler.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for handler, level in zip(consoles, levels, strict=True):
            handler.setLevel(level)


def describe_run(runner: DrivingRunner) -> str:
    """Model size, samples, steps and devices of a run whose loops are built, in one line."""
    parameters = list(runner.bare_model.parameters())
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    frozen = sum(parameter.numel() for parameter in parameters) - trained
    loader, loop = runner.train_dataloader, runner._train_loop
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else 'CPU'
    evaluation = (
        f'{len(runner._val_loop.dataloader.dataset)} samples evaluated every {loop.val_interval} epochs'
        if runner._val_loop is not None
        else 'no evaluation'
    )
    mode = next((name for name in ('is_dev', 'is_full') if runner.cfg.get(name)), None)
    return '; '.join(
        [
            f'{trained:,} parameters' + (f' and {frozen:,} frozen' if frozen else ''),
            f'{len(loader.dataset)} training samples' + (f' ({mode})' if mode else ''),
            f'{len(loader)} steps per epoch of {loader.batch_size} x {runner.world_size} samples, '
            f'{loop.max_epochs} epochs',
            evaluation,
            f'world size {runner.world_size} on {device}',
        ]
    )
