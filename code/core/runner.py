"""mmengine's Runner with checkpoints that are safe to read, exact to resume, and right on the CPU."""

import os
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import mmengine
import torch
from mmengine.dist import broadcast_object_list, get_rank, is_main_process
from mmengine.model import MMDistributedDataParallel, convert_sync_batchnorm, revert_sync_batchnorm
from mmengine.runner import Runner
from mmengine.runner.checkpoint import load_state_dict, weights_to_cpu
from torch import nn
from torch.utils.data import DataLoader

from thinktwice.checkpoint import file as checkpoint_io
from thinktwice.checkpoint.pretrained import use_pretrained_folder
from thinktwice.config.differences import config_changes
from thinktwice.core import model_options
from thinktwice.core.data_fit import check_data_fits
from thinktwice.core.hooks.averaging import AveragedWeightsHook
from thinktwice.core.hooks.checkpoint import AtomicCheckpointHook
from thinktwice.core.loader_workers import init_worker
from thinktwice.core.loops import TrainPosition
from thinktwice.core.optim_wrapper import check_paramwise
from thinktwice.core.schedules import continue_schedules
from thinktwice.core.start_report import describe_run, file_only
from thinktwice.distributed.collectives import load_statistics, on_rank_0, statistics_of_all
from thinktwice.environment import collect_environment, write_environment
from thinktwice.errors import CheckpointError, as_config_error
from thinktwice.tables import format_table
from thinktwice.version import __version__

CHECKPOINT_FORMAT = 1


def _to_cpu(value: Any) -> Any:
    """Copy of nested plain containers with all tensors on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {key: _to_cpu(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_to_cpu(item) for item in value)
    return value


class DrivingRunner(Runner):
    """Runner of this package; config keys are mmengine's.

    Differences to mmengine 0.10.7: model wrapping works without a GPU and says
    when SyncBN is skipped; checkpoints hold plain containers only, are written
    atomically and read with ``weights_only=True``; a run resumes at the batch
    where it stopped; ``cfg.strict_load`` makes missing keys an error. Further keys
    of the config: ``channels_last``, ``recompute``, ``compile`` (see
    ``model_options``), ``ema_momentum`` (see ``AveragedWeightsHook``) and
    ``pretrained_dir`` (see ``use_pretrained_folder``).
    """

    # configs until they are built; mmengine leaves them untyped
    optim_wrapper: Any
    _train_loop: Any
    _val_loop: Any

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Move the model to its device and wrap it for gradient exchange where there are processes."""
        on_gpu = torch.cuda.is_available()
        model = model.to('cuda' if on_gpu else 'cpu')
        if self.cfg.get('channels_last'):
            model_options.use_channels_last(model)
        model = self._with_norm_of_processes(model, on_gpu)
        if self.cfg.get('recompute'):
            model_options.recompute_activations(model, self.cfg.recompute)
        if self.cfg.get('compile'):
            model_options.compile_parts(model, self.cfg.compile)
        if not self.distributed:
            return model
        model_options.share_label_counts(model)
        options = dict(forward_sync_buffers=False, find_unused_parameters=False)
        options.update(model_wrapper_cfg or {})
        options.pop('type', None)
        device_ids = [torch.cuda.current_device()] if on_gpu else None
        return MMDistributedDataParallel(module=model, device_ids=device_ids, **options)

    def _with_norm_of_processes(self, model: nn.Module, on_gpu: bool) -> nn.Module:
        """Let BatchNorm see the batches of all processes if ``sync_bn`` asks for it; only GPUs can."""
        sync_bn = self.cfg.get('sync_bn')
        if self.distributed and sync_bn and on_gpu:
            return convert_sync_batchnorm(model, sync_bn)
        if self.distributed and sync_bn:
            self.logger.info('sync_bn is skipped on the CPU: each process normalises by its own batch')
        return revert_sync_batchnorm(model)

    def build_model(self, model: nn.Module | dict) -> nn.Module:
        """Build the model, after the loaders: what is wrong with the data shows before anything slow."""
        diff_rank_seed = self._randomness_cfg.get('diff_rank_seed', False)
        for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            if (loader := getattr(self, f'_{name}')) is not None:
                with as_config_error(name):
                    setattr(self, f'_{name}', self.build_dataloader(loader, self.seed, diff_rank_seed))
        return super().build_model(model)

    def _init_model_weights(self) -> None:
        """Initialise the weights; pretrained ones come from ``cfg.pretrained_dir`` first. Collective."""
        use_pretrained_folder(Path(self.cfg.get('pretrained_dir', 'ckpt')), self.cfg.model)
        super()._init_model_weights()

    def _maybe_compile(self, target: str) -> None:
        """Do nothing: ``wrap_model`` has compiled what ``cfg.compile`` names."""

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """Build the optimizer of the model; what mmengine would ignore in ``paramwise_cfg`` is an error."""
        if isinstance(optim_wrapper, dict):
            check_paramwise(optim_wrapper, self.bare_model)
        return super().build_optim_wrapper(optim_wrapper)

    def scale_lr(self, optim_wrapper: Any, auto_scale_lr: dict | None = None) -> None:
        """Scale the learning rate by the samples per optimizer step, accumulated batches included."""
        if auto_scale_lr and auto_scale_lr.get('enable'):
            batches = self.cfg.optim_wrapper.get('accumulative_counts', 1)
            base = auto_scale_lr['base_batch_size'] / batches
            super().scale_lr(optim_wrapper, {'enable': True, 'base_batch_size': base})

    def register_default_hooks(self, hooks: dict | None = None) -> None:
        """Register mmengine's hooks, or what the config has in their place, and the averaging of weights."""
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
        """Names of the hooks in their order, which is the same at each stage; mmengine lists every stage."""
        return ', '.join(type(hook).__name__ for hook in self.hooks)

    def build_dataloader(
        self, dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """Build a loader whose workers ignore signals to all ranks; check that the data fits the model."""
        if isinstance(dataloader, dict):
            workers = dict(num_workers=dataloader.get('num_workers', 0), rank=get_rank(), seed=seed or 0)
            dataloader = {'worker_init_fn': dict(type=init_worker, **workers), **dataloader}
        loader = Runner.build_dataloader(dataloader, seed, diff_rank_seed)
        check_data_fits(self.cfg.get('model', {}), getattr(loader.dataset, 'metainfo', {}))
        return loader

    def build_all(self) -> None:
        """Build loaders, optimiser and evaluator, so that what is wrong with them shows before training."""
        self._train_loop = self.build_train_loop(self._train_loop)
        self.optim_wrapper = self.build_optim_wrapper(self.optim_wrapper)
        if self._val_loop is not None:
            self._val_loop = self.build_val_loop(self._val_loop)
        self.logger.info(describe_run(self))

    @property
    def bare_model(self) -> nn.Module:
        """The model without its wrapper for several processes."""
        return self.model.module if isinstance(self.model, MMDistributedDataParallel) else self.model

    @property
    def checkpoint_folders(self) -> list[Path]:
        """Where a run to be continued may lie: the folder that checkpoints go to, then the work dir."""
        folders = [hook.folder(self) for hook in self.hooks if isinstance(hook, AtomicCheckpointHook)]
        return list(dict.fromkeys([*folders, Path(self.work_dir)]))

    def load_or_resume(self) -> None:
        """Load weights or continue a run, as ``load_from`` and ``resume`` say. Collective."""
        if self._has_loaded:
            return
        if self._resume and (self._resume == 'auto' or self._load_from is None):
            self._resume_or_start()
        elif self._resume:
            self.resume(self._load_from)
        elif self._load_from is not None:
            self.load_checkpoint(self._load_from)

    def _resume_or_start(self) -> None:
        """Continue from the newest checkpoint; if there is none, start from ``load_from`` or from nothing."""
        latest: list[str | None] = [None]
        if is_main_process():
            found = map(checkpoint_io.find_latest_checkpoint, self.checkpoint_folders)
            latest = [next((str(path) for path in found if path), None)]
        broadcast_object_list(latest)
        if latest[0] is not None:
            self.resume(latest[0])
            return
        places = ' or '.join(map(str, self.checkpoint_folders))
        self.logger.info(f'no checkpoint in {places}: training starts from the beginning')
        self._resume = False  # hooks must not take the weights of load_from for those of a run
        if self._load_from is not None:
            self.load_checkpoint(self._load_from)

    def load_checkpoint(
        self, filename: str, map_location: Any = 'cpu', strict: bool | None = None, revise_keys: Any = ()
    ) -> dict:
        """Load weights.

        Args:
            filename: Checkpoint of this package, of mmengine, or a plain state dict.
            map_location: Device to load to.
            strict: Whether missing or unexpected keys are an error. None takes
                ``cfg.strict_load`` (default True).
            revise_keys: Unused; a leading ``module.`` is stripped always.

        Returns:
            The checkpoint.

        Raises:
            CheckpointError: The file can't be read, or its keys do not match.
        """
        checkpoint = checkpoint_io.load_checkpoint(
            filename, map_location, trust=bool(self.cfg.get('trust_checkpoint', False))
        )
        weights = checkpoint.get('state_dict', {}).items()
        checkpoint['state_dict'] = {name.removeprefix('module.'): value for name, value in weights}
        if self._resume:
            checkpoint_io.check_training_state(filename, checkpoint)
            self._take_up_average(checkpoint, filename)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        state = checkpoint['state_dict']
        self._check_keys(state, filename, self.cfg.get('strict_load', True) if strict is None else strict)
        load_state_dict(self.bare_model, state, strict=False, logger='silent')
        self._has_loaded = True
        self.logger.info(f'loaded weights from {filename}')
        return checkpoint

    def _take_up_average(self, checkpoint: dict, filename: str) -> None:
        """Check weights and average of a run to be continued; without an average now, leave it behind.

        The file has the average as ``state_dict``; the optimiser's state belongs to the weights beside it.
        """
        if 'ema_state_dict' not in checkpoint:
            return
        trained = {
            name.removeprefix('module.'): value
            for name, value in checkpoint['ema_state_dict'].items()
            if name.startswith('module.')
        }
        self._check_keys(checkpoint['state_dict'], filename, strict=True)
        self._check_keys(trained, f'{filename} (ema_state_dict)', strict=True)
        if not any(isinstance(hook, AveragedWeightsHook) for hook in self.hooks):
            checkpoint['state_dict'] = trained
            self.logger.warning(
                f'{filename} holds a moving average of the weights, and ema_momentum is not set: the run '
                'goes on from the weights that were being trained, the average ends here'
            )

    def _check_keys(self, state: dict, filename: str, strict: bool) -> None:
        """Compare names and shapes with the model's; say which differ, refuse them if ``strict``."""
        own = self.bare_model.state_dict()
        differences = {
            'missing': sorted(own.keys() - state.keys()),
            'unexpected': sorted(state.keys() - own.keys()),
            'of another shape': sorted(
                k for k in own.keys() & state.keys() if own[k].shape != state[k].shape
            ),
        }
        report = '; '.join(
            f'{len(keys)} {kind} ({", ".join(keys[:3])}{", ..." if len(keys) > 3 else ""})'
            for kind, keys in differences.items()
            if keys
        )
        if not report:
            return
        if strict or differences['of another shape']:
            raise CheckpointError(
                f'{filename} does not fit the model: {report}. Is the config the one it was trained with? '
                'To load the weights that fit by name, pass --cfg-options strict_load=False.'
            )
        self.logger.warning(f'{filename} does not fit the model: {report}; the rest was loaded')

    def resume(self, filename: str, map_location: Any = 'cpu') -> None:
        """Continue the run that wrote ``filename`` at the step after its last one.

        Weights and the optimiser's state are the checkpoint's; what the config says of learning
        rates, schedules and other settings of the optimiser holds.

        Raises:
            CheckpointError: The file holds weights only, or was written with
                other conditions that make an exact continuation impossible.
        """
        self._resume = True
        checkpoint = self.load_checkpoint(filename, map_location, strict=True)
        meta = checkpoint.get('meta', {})
        if 'optimizer' not in checkpoint or 'iter' not in meta:
            raise CheckpointError(
                f'{filename} holds weights but no training state; start from it with --load-from instead'
            )
        if changes := config_changes(meta.get('cfg', ''), self.config_text):
            listed = '\n  '.join(changes)
            self.logger.warning(f'the config differs from that of the checkpoint:\n  {listed}')
        position = self._resumed_position(meta)
        self.train_loop.restore(position)
        self.optim_wrapper = self.build_optim_wrapper(self.optim_wrapper)
        try:
            is_same_schedule = continue_schedules(
                self.param_schedulers or [],
                self.optim_wrapper.optimizer,
                checkpoint.get('param_schedulers', []),
                lambda: self.optim_wrapper.load_state_dict(checkpoint['optimizer']),
                position,
                len(self.train_dataloader),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f'the optimiser or schedules in {filename} do not fit those of the config ({error!r}): '
                'start from its weights with --load-from instead'
            ) from error
        if not is_same_schedule:
            self.logger.warning(
                'the schedules are not those of the checkpoint (another number of batches or epochs, or '
                'another learning rate): those of the config hold, as if they had held from the start'
            )
        for hook in self.hooks:
            if hasattr(hook, 'load_state_dict'):
                hook.load_state_dict(checkpoint.get('hooks', {}).get(type(hook).__name__, {}))
        load_statistics(self.bare_model, checkpoint.get('statistics_of_processes'))
        self.logger.info(f'resumed from {filename}: epoch {self.epoch}, iteration {self.iter}')

    def _resumed_position(self, meta: dict) -> TrainPosition:
        """Position to continue from; says what a changed seed or number of processes means."""
        seed = meta.get('seed')
        if seed is not None and seed != self.seed:
            self.logger.warning(
                f'the checkpoint was trained with seed {seed}, this run has {self.seed}: '
                'the order of samples changes from here on'
            )
        batches_done = meta.get('batches_done', 0)
        old_batch = meta.get('global_batch_size')
        new_batch = self.world_size * self.train_dataloader.batch_size
        if old_batch is not None and old_batch != new_batch:
            samples_done = batches_done * old_batch
            batches_done = samples_done // new_batch
            self.logger.warning(
                f'the checkpoint was trained with {old_batch} samples a step, this run has {new_batch}: '
                'the learning rate follows only with --autoscale-lr, and of the '
                f'{samples_done} samples done in this epoch some are seen again and others not at all, since '
                'their order depends on that number'
            )
        return TrainPosition(meta['epoch'], meta['iter'], batches_done, meta.get('evaluation_is_due', False))

    @cached_property
    def config_text(self) -> str:
        """The config as it is saved; formatting a large one takes seconds, in which all processes wait."""
        return self.cfg.pretty_text

    def training_state(self) -> dict:
        """Everything a continued run needs, as plain containers and tensors on the CPU."""
        position = self.train_loop.position
        meta = dict(
            format=CHECKPOINT_FORMAT,
            version=__version__,
            mmengine_version=mmengine.__version__,
            epoch=position.epoch,
            iter=position.iteration,
            batches_done=position.batches_done,
            evaluation_is_due=position.evaluation_is_due,
            seed=self.seed,
            world_size=self.world_size,
            global_batch_size=self.world_size * self.train_dataloader.batch_size,
            cfg=self.config_text,
            experiment_name=self.experiment_name,
            time=time.strftime('%Y-%m-%d %H:%M:%S'),
        )
        schedulers = [
            {key: value for key, value in scheduler.state_dict().items() if not callable(value)}
            for scheduler in self.param_schedulers or []
        ]
        checkpoint = dict(
            meta=meta,
            state_dict=dict(weights_to_cpu(self.bare_model.state_dict())),
            optimizer=_to_cpu(self.optim_wrapper.state_dict()),
            param_schedulers=_to_cpu(schedulers),
            hooks={
                type(hook).__name__: hook.state_dict() for hook in self.hooks if hasattr(hook, 'state_dict')
            },
        )
        self.call_hook('before_save_checkpoint', checkpoint=checkpoint)
        return _to_cpu(checkpoint)

    def save_checkpoint(self, out_dir: str, filename: str, **unused: Any) -> None:
        """Write the training state to ``out_dir/filename``, atomically; the first process does. Collective.

        Raises:
            WriteError: On all processes, if the file can't be written.
        """
        statistics = statistics_of_all(self.bare_model)

        def write() -> None:
            state = dict(self.training_state(), statistics_of_processes=statistics)
            checkpoint_io.save_checkpoint(state, Path(out_dir) / filename)

        on_rank_0(write)

    def dump_config(self) -> None:
        """Write the resolved config to the work dir; on the first process only."""
        if is_main_process():
            name = os.path.basename(self.cfg.filename or f'{self.timestamp}.py')
            self.cfg.dump(os.path.join(self.work_dir, name))
