"""Where values and pictures of a training are written: TensorBoard with an overview of the run, MLflow."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.visualization import MLflowVisBackend, TensorboardVisBackend
from mmengine.visualization.vis_backend import force_init_env

from thinktwice.registry import VISBACKENDS

LAYOUT = {
    'losses': {
        'total': [r'train/loss$'],
        'plan and controls': [r'train/(wp|action|future_action|speed)_loss$'],
        'depth and classes': [r'train/(depth|seg)_loss$'],
        'value and features of the teacher': [
            r'train/(value|flattened_feature)_loss$',
            r'train/(BEV|refine)_\w*loss\d*$',
        ],
        'teacher forcing': [r'train/teacher_\w*loss\d*$'],
        'all terms': [r'train/\w+_loss\d*$'],
    },
    'plan, meters': {
        'evaluation': [r'val/open_loop/(ade|fde)$'],
        'ADE of each stage': [r'val/open_loop/(coarse|refined_\d+)/ade$'],
        'ADE by command': [r'val/open_loop/command/\w+/ade$'],
        'ADE by speed, m/s': [r'val/open_loop/speed/\w+/ade$'],
        'ADE by town': [r'val/open_loop/town/\w+/ade$'],
        'training batches': [r'train/(longitudinal|lateral)_offset$'],
    },
    'perception': {
        'IoU': [r'val/perception/\w+/iou$'],
        'recall within 15 m': [r'val/perception/\w+/recall_near$'],
        'depth error, meters': [r'val/perception/depth_error(_near)?$'],
    },
    'optimization': {
        'learning rate': [r'train/lr$'],
        'gradient norm': [r'train/grad_norm$'],
        'skipped steps': [r'train/(skipped|overflow)_steps$'],
    },
    'speed and memory': {
        'samples per second, all ranks': [r'train/samples_per_second$'],
        'seconds per step, and those of waiting for data': [r'train/(data_)?time$'],
        'memory, MB': [r'(train/)?memory$'],
    },
    'health of the layers': {
        'variation over samples': [r'val/health/.*/variation$'],
        'share of dead units': [r'val/health/.*/dead$'],
        'gradient norm': [r'val/health/.*/gradient$'],
    },
    'reliance': {
        'ADE with an input of other samples, meters': [r'(reliance/\w+/)?open_loop/ade$'],
    },
}
"""Charts of the tab Custom Scalars: group, title and patterns of the values in it."""

HYPERPARAMETERS = (
    *('optim_wrapper', 'train_cfg', 'train_dataloader.batch_size', 'model.losses'),
    *('image_size', 'num_refine_layers', 'ema_momentum', 'randomness.seed'),
)
"""Entries of the config that the tab HParams compares."""


@VISBACKENDS.register_module()
class TensorboardBackend(TensorboardVisBackend):
    """mmengine's backend, with a layout of the charts and the hyperparameters of the run.

    Args:
        save_dir: Folder of the files.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir)

    @force_init_env
    def add_config(self, config: Config, **unused: Any) -> None:
        """Write the config as text, the layout and the hyperparameters."""
        from torch.utils.tensorboard.summary import hparams  # slow to import

        super().add_config(config)
        charts = {
            group: {title: ['Multiline', patterns] for title, patterns in titles.items()}
            for group, titles in LAYOUT.items()
        }
        self._tensorboard.add_custom_scalars(charts)
        metrics = dict.fromkeys(('val/open_loop/ade', 'val/open_loop/fde'), 0.0)  # only their names are used
        for summary in hparams(hyperparameters(config.to_dict()), metrics):
            self._tensorboard.file_writer.add_summary(summary)


@VISBACKENDS.register_module()
class MLflowBackend(MLflowVisBackend):
    """mmengine's backend for MLflow 3, which no longer stores runs as files, nor pictures without extension.

    Args:
        save_dir: Folder of the run.
        tracking_uri: Server or database; None for ``mlflow.db`` in `save_dir`.
        exp_name: Name of the experiment.
        run_name: Name of the run; None for one that MLflow makes up.
    """

    def __init__(
        self,
        save_dir: str,
        tracking_uri: str | None = None,
        exp_name: str = 'thinktwice',
        run_name: str | None = None,
    ) -> None:
        folder = os.path.abspath(save_dir)
        super().__init__(
            save_dir,
            exp_name,
            run_name,
            tracking_uri=tracking_uri or f'sqlite:///{folder}/mlflow.db',
            artifact_location=None if tracking_uri else f'file://{folder}/mlflow',
        )

    @force_init_env
    def add_image(self, name: str, image: np.ndarray, step: int = 0, **unused: Any) -> None:
        """Write a picture as ``<name>_<step>.png``.

        Args:
            name: Name of the picture.
            image: (H, W, 3) uint8 RGB.
            step: Step of the evaluation.
            **unused: For other backends.
        """
        super().add_image(f'{name}_{step}.png', image, step)


def hyperparameters(config: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Values of ``HYPERPARAMETERS`` and the world size, by dotted key."""
    values = {'world_size': get_world_size()}
    for key in HYPERPARAMETERS:
        node: Any = config
        for name in key.split('.'):
            node = node.get(name) if isinstance(node, Mapping) else None
        values.update(_leaves(key, node))
    return values


def _leaves(key: str, node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _leaves(f'{key}.{name}', value)
    elif node is not None:
        yield key, node if isinstance(node, (bool, int, float, str)) else str(node)
