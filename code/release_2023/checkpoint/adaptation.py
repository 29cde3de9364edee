"""Official 2023 weights in a model of another config: what is loaded, changed or reinitialized.

The main config corrects the computation of 2023 (docs/reference_quirks.md). Most weights keep
their meaning. Some were never trained and are reinitialized, some belong to class ids that
moved by one, and some get other inputs than in training. The notes of an adaptation list all.
"""

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from torch import Tensor, nn

from thinktwice.errors import CheckpointError
from thinktwice.release_2023.checkpoint.conversion import NUMERICS_2023, model_shapes, official_to_ours
from thinktwice.release_2023.checkpoint.names import official_entries

#: Names of weights that only models with the computation of 2023 have.
MARKER = re.compile(r'^decoder\.layers\.\d+\.look_feature_mlp\.')

#: Entries of the camera vector that were always 0 in 2023: the camera's position (M1).
POSITION_ENTRIES = (13, 17, 21)

StateDict = Mapping[str, Tensor]
Rule = Callable[[Tensor, Tensor], Tensor]


def _keep_initial(official: Tensor, own: Tensor) -> Tensor:
    return own


def _new_position_weight(official: Tensor, own: Tensor) -> Tensor:
    """Zero for the position, so that it has no effect until training changes that."""
    weight = official.clone()
    weight[list(POSITION_ENTRIES)] = 0
    return weight


def _new_position_statistics(official: Tensor, own: Tensor) -> Tensor:
    """The statistics of constant zeros would scale a true position by about 300."""
    statistics = official.clone()
    statistics[list(POSITION_ENTRIES)] = own[list(POSITION_ENTRIES)]
    return statistics


def _shift_outputs(official: Tensor, own: Tensor) -> Tensor:
    """Output 0 was background and buildings, output c the class that is now c + 1."""
    return torch.cat((official[:1], official[:-1]))


def _shift_inputs(official: Tensor, own: Tensor) -> Tensor:
    """The same for the inputs of the next layer; background and buildings get half the weight each."""
    halves = official[:, :1] / 2
    return torch.cat((halves, halves, official[:, 1:-1]), dim=1)


@dataclass(frozen=True)
class _Change:
    pattern: str
    rule: Rule
    note: str


_LAYER = r'decoder\.layers\.\d+'
_NEVER_TRAINED = 'never trained in 2023 ({}): reinitialized'
CHANGES = (
    _Change(rf'{_LAYER}\.lidar_look\.', _keep_initial, _NEVER_TRAINED.format('M3')),
    _Change(rf'{_LAYER}\.prediction_module\.ffn\.', _keep_initial, _NEVER_TRAINED.format('M5')),
    _Change(
        r'img_encoder\.depth_net\.camera_norm\.weight$',
        _new_position_weight,
        'the camera position was always 0 in 2023 (M1): its weights start from 0',
    ),
    _Change(
        r'img_encoder\.depth_net\.camera_norm\.running_(mean|var)$',
        _new_position_statistics,
        'the camera position was always 0 in 2023 (M1): its statistics are reinitialized',
    ),
    _Change(
        r'img_encoder\.seg_head\.classify\.',
        _shift_outputs,
        'class ids count from 1 (M26): outputs moved by one, buildings start as background',
    ),
    _Change(
        r'img_encoder\.seg_branch\.layers\.0\.weight$',
        _shift_inputs,
        'class ids count from 1 (M26): inputs moved by one',
    ),
)
#: Unchanged weights whose inputs or outputs are not those of 2023.
INPUT_NOTES = (
    'the camera map is placed by the true camera poses of both frames, at cell and bin centers, and no '
    'longer mirrored; so are the LiDAR map and its history points (M1, M2, M7, M14, M15, M22 to M24)',
    'look features are means over the queries that a camera sees, and include LiDAR features (M3, M4)',
    'future maps build on those of the layer before (M5)',
)


@dataclass
class AdaptedWeights:
    """Weights for a model, and how they differ from the file's.

    Attributes:
        weights: Name to tensor.
        notes: One line per kind of change; empty if there is none.
    """

    weights: dict[str, Tensor]
    notes: list[str] = field(default_factory=list)


def adapt_official_weights(state: StateDict, model: nn.Module, numerics: str | None = None) -> AdaptedWeights:
    """Prepare the weights of a file for a model.

    Args:
        state: Weights under official names or ours, trained in 2023 or by this framework.
        model: Model to load them into.
        numerics: ``'2023'`` if the checkpoint is marked so.

    Returns:
        The weights under our names. They are unchanged if they were trained by this framework
        or if the model reproduces 2023; else they are changed as the notes tell.
    """
    own = model.state_dict()
    translated, is_official = _translated(state, model)
    is_marked = numerics == NUMERICS_2023 or any(MARKER.match(name) for name in translated)
    if not (is_official or is_marked) or any(MARKER.match(name) for name in own):
        return AdaptedWeights(translated)
    weights = {name: tensor for name, tensor in translated.items() if not MARKER.match(name)}
    notes = ['look_feature_mlp of each layer, which is never called: left out']
    for change in CHANGES:
        names = [name for name in weights if re.match(change.pattern, name) and name in own]
        for name in names:
            if weights[name].shape == own[name].shape:
                weights[name] = change.rule(weights[name], own[name].to(weights[name].device))
        if names:
            others = f' and {len(names) - 1} more' if len(names) > 1 else ''
            notes.append(f'{names[0]}{others}: {change.note}')
    notes += [f'loaded, but trained with other inputs: {note}' for note in INPUT_NOTES]
    return AdaptedWeights(weights, notes)


def _translated(state: StateDict, model: nn.Module) -> tuple[dict[str, Tensor], bool]:
    """The state dict under our names, and whether its names were the official ones.

    Entries without a rule keep their names, so that loading reports them.
    """
    shapes = model_shapes(model)
    official = official_entries()
    if sum(name in official for name in state) <= sum(name in shapes for name in state):
        return dict(state), False
    conversion = official_to_ours(state, shapes)
    unknown = {name: state[name] for name in conversion.unexpected}
    return {**conversion.weights, **unknown}, True


def adapt_checkpoint(checkpoint: dict[str, Any], model: nn.Module, fine_tuning: bool) -> None:
    """Adapt the weights of a checkpoint to a model, in place, and log what changed.

    Args:
        checkpoint: From ``load_checkpoint``.
        model: Model to load them into, without its wrapper for distributed training.
        fine_tuning: Whether the model is trained further. If not, weights that would have to be changed
            are refused: an evaluation would measure reinitialized parts.

    Raises:
        CheckpointError: The weights would have to be changed, and the model is not trained further.
    """
    adapted = adapt_official_weights(checkpoint['state_dict'], model, checkpoint.get('numerics'))
    checkpoint['state_dict'] = adapted.weights
    if not adapted.notes:
        return
    lines = '\n'.join(f'  - {note}' for note in adapted.notes)
    if not fine_tuning:
        raise CheckpointError(
            'these are weights of the 2023 model, and this config differs from it '
            '(docs/reference_quirks.md): evaluate them with configs/thinktwice_reference.py, or '
            f'fine-tune them with train.py --load-from first. What differs:\n{lines}'
        )
    print_log(
        'the weights of the 2023 model were adapted to this config, see docs/reference_quirks.md '
        f'(configs/thinktwice_reference.py uses them unchanged):\n{lines}',
        logger='current',
        level=logging.WARNING,
    )


class OfficialWeightsHook(Hook):
    """Apply ``adapt_checkpoint`` when a run loads weights.

    Args:
        fine_tuning: Whether the run trains.
    """

    def __init__(self, fine_tuning: bool = True) -> None:
        self.fine_tuning = fine_tuning

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Adapt the checkpoint, unless the run resumes from it: its weights then are those that it saved."""
        if not runner._resume:
            adapt_checkpoint(checkpoint, getattr(runner.model, 'module', runner.model), self.fine_tuning)
