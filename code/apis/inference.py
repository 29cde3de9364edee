"""A trained model, its data and the agent that drives with it, from Python."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from thinktwice.checkpoint.file import load_checkpoint
from thinktwice.checkpoint.weights import load_weights
from thinktwice.closed_loop.agent import DrivingAgent
from thinktwice.closed_loop.controllers import make_controller
from thinktwice.closed_loop.ego_mlp import LABEL_STEPS
from thinktwice.config.load import load_config, require_keys
from thinktwice.config.overrides import check_parts
from thinktwice.core.evaluation import OpenLoopMetric
from thinktwice.core.visualization import draw_sample, record_sampling_points
from thinktwice.datasets import CarlaDataset
from thinktwice.datasets.calibration import Calibration
from thinktwice.datasets.pipelines import LoadCameras
from thinktwice.errors import CheckpointError, ConfigError, as_config_error, as_user_error
from thinktwice.model_code.backbones import FrameMemory, LSSCameraEncoder
from thinktwice.registry import DATASETS, FUNCTIONS, MODELS, TRANSFORMS
from thinktwice.release_2023.checkpoint.adaptation import adapt_checkpoint

SPLITS = ('train', 'val', 'test')

Sample = dict[str, Any]
Prediction = dict[str, Tensor]


def init_model(
    config: str | Path | Config,
    checkpoint: str | Path | None = None,
    device: str | torch.device | None = None,
    cfg_options: dict[str, Any] | None = None,
) -> nn.Module:
    """Build a model for inference and load its weights.

    Args:
        config: A config file, or the ``Config`` read from one.
        checkpoint: A checkpoint of this framework, or an official one of 2023 for
            ``configs/thinktwice_reference.py``. None leaves the weights random.
        device: By default ``cuda`` if available, else ``cpu``.
        cfg_options: Overrides of the config, dotted keys to values.

    Returns:
        The model in evaluation mode on the device; its attribute ``cfg`` is the resolved config.

    Raises:
        ConfigError: The config is wrong.
        FileNotFoundError: There is no such config or checkpoint.
        CheckpointError: The checkpoint is damaged or does not fit the model.
    """
    cfg = _prepare(config, cfg_options)
    require_keys(cfg, ['model'], 'init_model')
    with as_config_error('model', cfg):
        model = MODELS.build(cfg.model)
    if checkpoint is not None:
        weights = load_checkpoint(checkpoint, trust=bool(cfg.get('trust_checkpoint')))
        with as_user_error(CheckpointError, lambda: f'checkpoint {checkpoint} cannot be used'):
            adapt_checkpoint(weights, model, fine_tuning=False)
            load_weights(model, weights, str(checkpoint))
    model.cfg = cfg
    return model.to(device or ('cuda' if torch.cuda.is_available() else 'cpu')).eval()


def init_dataset(
    config: str | Path | Config,
    split: str = 'val',
    cfg_options: dict[str, Any] | None = None,
    labels_only: bool = False,
) -> CarlaDataset:
    """Build a dataset of a config.

    Args:
        config: A config file, or the ``Config`` read from one.
        split: ``train``, ``val`` or ``test``, which is the validation split where a config has no other.
        cfg_options: Overrides of the config, dotted keys to values.
        labels_only: Read measurements and labels alone, as ``train_ego_mlp`` takes them.

    Returns:
        The dataset; its items are samples for :func:`predict` unless they hold labels only.

    Raises:
        ConfigError: The config is wrong, or there is no data where it says.
        FileNotFoundError: There is no such config.
    """
    if split not in SPLITS:
        raise ConfigError(f'split must be one of {", ".join(SPLITS)}, got {split!r}')
    cfg = _prepare(config, cfg_options)
    key = _loader_key(cfg, split)
    require_keys(cfg, [key], f'split={split!r}')
    dataset = cfg[key].dataset
    if labels_only:
        if 'pipeline' not in dataset:
            raise ConfigError(f'{key}.dataset has no pipeline: labels alone are read from one CarlaDataset')
        steps = [step for step in dataset.pipeline if step['type'] in LABEL_STEPS]
        dataset = {**dataset, 'pipeline': steps}
    with as_config_error(f'{key}.dataset', cfg):
        return DATASETS.build(dataset)


def init_agent(
    model: nn.Module,
    calibration: Calibration,
    tick_seconds: float,
    controller: str = 'fused',
    half_sweeps: bool = False,
    smooth_position: bool = False,
) -> DrivingAgent:
    """Make the agent that drives with a model; no data is needed, only the config's test pipeline.

    Args:
        model: From :func:`init_model`.
        calibration: Of the vehicle; the agent uses the cameras that the pipeline names.
        tick_seconds: Time between two ticks.
        controller: From plan to control, a key of ``thinktwice.closed_loop.controllers.CONTROLLERS``.
        half_sweeps: Whether the LiDAR gives half a sweep per tick.
        smooth_position: Whether to average the position, as noisy GNSS needs it.

    Raises:
        ConfigError: The config has no test pipeline, or there is no such controller or camera.
    """
    cfg: Config = model.cfg
    key = _loader_key(cfg, 'test')
    require_keys(cfg, [key], 'an agent')
    dataset = cfg[key].dataset
    if 'pipeline' not in dataset:
        raise ConfigError(f'{key}.dataset has no pipeline, which makes the samples of an agent')
    with as_config_error(f'{key}.dataset.pipeline', cfg):
        steps = [TRANSFORMS.build(step) for step in dataset.pipeline]
    loads_images = [step for step in steps if isinstance(step, LoadCameras)]
    calibration = calibration.select(loads_images[0].cameras if loads_images else ())
    agent = DrivingAgent(
        lambda samples: predict(model, samples),
        steps,
        calibration,
        tick_seconds,
        dataset.get('num_frames', 2),
        make_controller(controller, tick_seconds),
        half_sweeps,
        smooth_position,
    )
    encoder = getattr(model, 'img_encoder', None)
    if isinstance(encoder, LSSCameraEncoder) and next(model.parameters()).device.type == 'cpu':
        encoder.memory = FrameMemory(agent.history_length)
    return agent


@overload
def predict(model: nn.Module, samples: Sample) -> Prediction: ...
@overload
def predict(model: nn.Module, samples: Sequence[Sample]) -> list[Prediction]: ...
def predict(model: nn.Module, samples: Sample | Sequence[Sample]) -> Prediction | list[Prediction]:
    """Run the model on samples of its dataset.

    Args:
        model: From :func:`init_model`.
        samples: A sample, or a list of samples, which is one batch.

    Returns:
        For each sample ``waypoints`` (K, 2) and ``waypoints_stages`` (stages, K, 2) in ego meters; of a
        model that predicts actions ``alpha`` and ``beta`` (2,), ``action`` (2,), acceleration and steer in
        [-1, 1]; and logits of the auxiliary heads, if it has any; a dict for a sample, a list for a list.
    """
    if isinstance(samples, dict):
        return predict(model, [samples])[0]
    if not samples:
        return []
    with torch.no_grad():
        return model.test_step(_collate_function(model.cfg)(samples))  # type: ignore[operator]


def draw_prediction(model: nn.Module, dataset: CarlaDataset, index: int) -> np.ndarray:
    """Draw a sample with what the model predicts for it; see :func:`draw_sample`.

    Args:
        model: From :func:`init_model`; the metrics of its config give the errors.
        dataset: From :func:`init_dataset`.
        index: Index of the sample.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    cfg: Config = model.cfg
    sample = dataset[index]
    evaluator = Evaluator(cfg.get('val_evaluator') or OpenLoopMetric())
    evaluator.dataset_meta = dataset.metainfo
    with record_sampling_points(model) as record:
        prediction = predict(model, sample)
        points = record.of_sample(0)
    return draw_sample(sample, prediction, evaluator.metrics, points)


def _prepare(config: str | Path | Config, cfg_options: dict[str, Any] | None) -> Config:
    cfg = load_config(config, cfg_options)
    check_parts(cfg)
    init_default_scope(cfg.default_scope)
    return cfg


def _loader_key(cfg: Config, split: str) -> str:
    return f'{split}_dataloader' if split != 'test' or cfg.get('test_dataloader') else 'val_dataloader'


def _collate_function(cfg: Config) -> Any:
    """The collate function of the test, validation or training loader, whichever a config has."""
    loaders = (cfg.get(f'{split}_dataloader') or {} for split in reversed(SPLITS))
    options = dict(next(loader['collate_fn'] for loader in loaders if 'collate_fn' in loader))
    return partial(FUNCTIONS.get(options.pop('type')), **options)
