"""Batch normalization that also trains on a single value per channel.

A single value per channel has no batch statistics, so ``nn.BatchNorm1d`` raises "Expected more than
1 value per channel when training" on a batch of one sample. The layers here normalize such a batch
with the running statistics and do not update them. State dict and results on larger batches are those
of ``nn.BatchNorm1d`` and ``nn.BatchNorm2d``. (The 2023 model could not train with a batch size of 1
per rank.)
"""

from jaxtyping import Float
from torch import Tensor, nn

from thinktwice.registry import MODELS


class _SingleValueMixin(nn.modules.batchnorm._BatchNorm):
    """Normalization with the running statistics where the batch has at most one value per channel."""

    def forward(self, input: Float[Tensor, 'B C *spatial']) -> Float[Tensor, 'B C *spatial']:
        """Normalize over all dimensions but the second; B may be 0 or 1."""
        values_per_channel = input.numel() // self.num_features
        if not self.training or values_per_channel > 1:
            return super().forward(input)
        if self.running_mean is None or self.running_var is None:
            raise ValueError('a batch with one value per channel needs track_running_stats=True')
        self._check_input_dim(input)
        shape = (1, -1) + (1,) * (input.dim() - 2)
        # Written out, so that weight and bias stay in the graph of an empty batch. The mean is cloned,
        # because a larger batch may update it in place before the backward pass of this one.
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean.clone() * scale
        return input * scale.view(shape) + shift.view(shape)


@MODELS.register_module()
class SingleValueBatchNorm1d(_SingleValueMixin, nn.BatchNorm1d):
    """``nn.BatchNorm1d`` that also trains on zero or one value per channel."""


@MODELS.register_module()
class SingleValueBatchNorm2d(_SingleValueMixin, nn.BatchNorm2d):
    """``nn.BatchNorm2d`` that also trains on zero or one value per channel."""
