"""Where the look modules of a model sample the sensors."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from thinktwice.model_code.dense_heads.deformable_attention import DeformableAttention
from thinktwice.model_code.dense_heads.look_lidar import LidarLook


@dataclass(frozen=True)
class SamplingPoints:
    """Sampling points of the last refine layer for one sample.

    Attributes:
        cameras: Camera of each of P points in the images; None without a look at the images.
        locations: x / W, y / H of these points.
        weights: Attention weight of these points.
        lidar: x, y of the points in the LiDAR map, ego frame, meters; None without a look at the LiDAR.
    """

    cameras: Int64[Tensor, ' P'] | None = None
    locations: Float[Tensor, 'P 2'] | None = None
    weights: Float[Tensor, ' P'] | None = None
    lidar: Float[Tensor, 'points 2'] | None = None


class SamplingRecord:
    """Inputs of the last look modules in a forward pass; see :func:`record_sampling_points`."""

    def __init__(self) -> None:
        self._calls: dict[str, tuple[Any, tuple]] = {}

    def add(self, name: str, module: nn.Module, inputs: tuple) -> None:
        """Keep the inputs of a call; of several in a pass, the first one looks around the plan."""
        self._calls.setdefault(name, (module, inputs))

    def clear(self) -> None:
        """Forget the last pass."""
        self._calls.clear()

    @torch.no_grad()
    def of_sample(self, index: int) -> SamplingPoints:
        """Sampling points of one sample of the batch of the last pass."""
        points: dict[str, Tensor] = {}
        if 'images' in self._calls:
            attention, (queries, references, cameras, tokens, *_) = self._calls['images']
            selected = cameras // tokens.batch_shape[1] == index
            locations, weights = attention.sampling_locations(
                queries[selected].float(), references[selected].float(), tokens
            )
            points = {
                'cameras': (cameras[selected] % tokens.batch_shape[1]).repeat_interleave(weights[0].numel()),
                'locations': locations.reshape(-1, 2),
                'weights': weights.flatten(),
            }
        if 'lidar' in self._calls:
            look, (waypoints, *_) = self._calls['lidar']
            fractions = look.sampling_locations(waypoints[index : index + 1]).reshape(-1, 2)
            low, high = fractions.new_tensor([look.x_range, look.y_range]).unbind(dim=1)
            points['lidar'] = low + fractions * (high - low)
        return SamplingPoints(**{key: value.cpu() for key, value in points.items()})


@contextmanager
def record_sampling_points(model: nn.Module) -> Iterator[SamplingRecord]:
    """Record where a model looks in the forward passes inside the context, without teacher forcing.

    Nothing is recorded of a compiled look module, nor of models without these modules.
    """
    record, handles = SamplingRecord(), []
    for name, kind in (('images', DeformableAttention), ('lidar', LidarLook)):
        looks = [module for module in model.modules() if isinstance(module, kind)]
        # the one of 2023 does not sample
        for module in [look for look in looks if type(look).forward is kind.forward][-1:]:
            hook = module.register_forward_pre_hook(
                lambda module, inputs, name=name: record.add(name, module, inputs)
            )
            handles.append(hook)
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()
