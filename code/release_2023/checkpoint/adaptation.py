"""Official 2023 weights in a model of another config: what is taken over, and what is said.

The main config corrects what 2023 did (docs/reference_quirks.md). Most weights keep their
meaning. Some never trained and start anew, some belong to class ids that moved by one, and
some see other inputs than they were trained on. All of it is listed.
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
from thinktwice.release_2023.checkpoint.conversion import model_shapes, official_to_ours
from thinktwice.release_2023.checkpoint.names import official_entries

#: Present in weights of the 2023 computation alone, and in models that reproduce it.
MARKER = re.compile(r'^decoder\.layers\.\d+\.look_feature_mlp\.')
NUMERICS_2023 = '2023'

#: Entries of the camera vector that 2023 always filled with 0: the camera's position (M1).
POSITION_ENTRIES = (13, 17, 21)

StateDict = Mapping[str, Tensor]
Rule = Callable[[Tensor, Tensor], Tensor]


def _keep_initial(official: Tensor, own: Tensor) -> Tensor:
    return own


def _new_position_weight(official: Tensor, own: Tensor) -> Tensor:
    """Zero for the position, so that the net computes what it did until it learns to use it."""
    weight = official.clone()
    weight[list(POSITION_ENTRIES)] = 0
    return weight


def _new_position_statistics(official: Tensor, own: Tensor) -> Tensor:
    """Statistics of constant zeros would amplify a true position some 300 times."""
    statistics = official.clone()
    statistics[list(POSITION_ENTRIES)] = own[list(POSITION_ENTRIES)]
    return statistics


def _shift_outputs(official: Tensor, own: Tensor) -> Tensor:
    """Output 0 served background and buildings, output c the class that is now c + 1."""
    return torch.cat((official[:1], official[:-1]))


def _shift_inputs(official: Tensor, own: Tensor) -> Tensor:
    """The same for the inputs of the layer behind; background and buildings share the weight."""
    halves = official[:, :1] / 2
    return torch.cat((halves, halves, official[:, 1:-1]), dim=1)


@dataclass(frozen=True)
class _Change:
    pattern: str
    rule: Rule
    note: str


_LAYER = r'decoder\.layers\.\d+'
_NEVER_TRAINED = 'never trained in 2023 ({}): starts anew'
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
        'the camera position was always 0 in 2023 (M1): its statistics start anew',
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
#: Weights that are taken over as they are, but see or give something else than in 2023.
INPUT_NOTES = (
    'the camera map is placed by the true camera poses of both frames, at cell and bin centres, and no '
    'longer mirrored; so are the LiDAR map and its history points (M1, M2, M7, M14, M15, M22 to M24)',
    'look features are means over the queries that see a camera, and hold LiDAR features (M3, M4)',
    'future maps build on those of the layer before (M5)',
)


@dataclass
class AdaptedWeights:
    """Weights for a model, and how they differ from the file's.

    Attributes:
        weights: Name to tensor.
        notes: One line a kind of change; empty if the file's weights are used as they are.
    """

    weights: dict[str, Tensor]
    notes: list[str] = field(default_factory=list)


def adapt_official_weights(state: StateDict, model: nn.Module, numerics: str | None = None) -> AdaptedWeights:
    """Prepare the weights of a file for a model.

    Args:
        state: Weights under official or our names, of 2023 or of this framework.
        model: The model that takes them.
        numerics: ``'2023'`` if the file says that its weights are those of 2023.

    Returns:
        The file's weights as they are, if they were trained by this framework or the model
        reproduces 2023; otherwise what fits the corrected model, with notes.
    """
    own = model.state_dict()
    translated, is_official = _translated(state, model)
    is_marked = numerics == NUMERICS_2023 or any(MARKER.match(name) for name in translated)
    if not (is_official or is_marked) or any(MARKER.match(name) for name in own):
        return AdaptedWeights(translated)
    weights = {name: tensor for name, tensor in translated.items() if not MARKER.match(name)}
    notes = ['look_feature_mlp of each layer, which nothing calls: left out']
    for change in CHANGES:
        names = [name for name in weights if re.match(change.pattern, name) and name in own]
        for name in names:
            if weights[name].shape == own[name].shape:
                weights[name] = change.rule(weights[name], own[name].to(weights[name].device))
        if names:
            others = f' and {len(names) - 1} more' if len(names) > 1 else ''
            notes.append(f'{names[0]}{others}: {change.note}')
    notes += [f'taken over, but trained otherwise: {note}' for note in INPUT_NOTES]
    return AdaptedWeights(weights, notes)


def _translated(state: StateDict, model: nn.Module) -> tuple[dict[str, Tensor], bool]:
    """The state dict under our names, and whether it had official ones.

    Entries that no rule knows keep their names, so that loading reports them.
    """
    shapes = model_shapes(model)
    official = official_entries()
    if sum(name in official for name in state) <= sum(name in shapes for name in state):
        return dict(state), False
    conversion = official_to_ours(state, shapes)
    unknown = {name: state[name] for name in conversion.report.unexpected}
    return {**conversion.weights, **unknown}, True


def adapt_checkpoint(checkpoint: dict[str, Any], model: nn.Module, fine_tuning: bool) -> None:
    """Replace the weights of a checkpoint by those for a model, in place, and log what changed.

    Args:
        checkpoint: What was read from the file.
        model: The model that is about to take the weights.
        fine_tuning: Whether the model is trained further. If not, only a model that reproduces 2023
            may take weights of 2023: another one would be evaluated with parts that are reinitialized.

    Raises:
        CheckpointError: If the weights would have to be adapted, and the model is not trained further.
    """
    state = {name.removeprefix('module.'): value for name, value in checkpoint['state_dict'].items()}
    adapted = adapt_official_weights(state, model, checkpoint.get('numerics'))
    checkpoint['state_dict'] = adapted.weights
    if not adapted.notes:
        return
    lines = '\n'.join(f'  - {note}' for note in adapted.notes)
    if not fine_tuning:
        raise CheckpointError(
            'these are weights of the 2023 model, and this config computes something else '
            '(docs/reference_quirks.md): evaluate them with configs/thinktwice_reference.py, or '
            f'fine-tune them with train.py --load-from first. What differs:\n{lines}'
        )
    print_log(
        'the weights of the 2023 model were adapted to this config, see docs/reference_quirks.md '
        f'(configs/thinktwice_reference.py computes with them as they are):\n{lines}',
        logger='current',
        level=logging.WARNING,
    )


class OfficialWeightsHook(Hook):
    """Applies ``adapt_checkpoint`` whenever a run loads weights.

    Args:
        fine_tuning: Whether the run trains.
    """

    def __init__(self, fine_tuning: bool = True) -> None:
        self.fine_tuning = fine_tuning

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Adapt the checkpoint unless the run resumes from it: then it fits as it is, or is refused."""
        if not runner._resume and 'state_dict' in checkpoint:
            adapt_checkpoint(checkpoint, _unwrapped(runner.model), self.fine_tuning)


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model without its wrapper for distributed training."""
    return getattr(model, 'module', model)
