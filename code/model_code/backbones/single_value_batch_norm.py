"""Batch normalization that also trains on one row.

Batch statistics of a single value per channel do not exist, so ``nn.BatchNorm1d`` refuses
a training batch of one sample. The layers here normalize such a batch by the running
statistics, which they leave as they are. Names and shapes of the state are those of
``nn.BatchNorm1d`` and ``nn.BatchNorm2d``, and with two values or more per channel so is
the result. (The 2023 network could not train with one sample per process.)
"""

from torch import Tensor, nn

from thinktwice.registry import MODELS


class _SingleValueMixin(nn.modules.batchnorm._BatchNorm):
    """Running statistics in place of those of a batch that has none."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalize over all axes but the second.

        Args:
            input: (B, C, ...); B may be 0 or 1.

        Returns:
            Tensor of the same shape.
        """
        values_per_channel = input.numel() // self.num_features
        if not self.training or values_per_channel > 1:
            return super().forward(input)
        if self.running_mean is None or self.running_var is None:
            raise ValueError('a batch without statistics needs track_running_stats=True')
        self._check_input_dim(input)
        shape = (1, -1) + (1,) * (input.dim() - 2)
        # Written out, so that weight and bias stay in the graph of an empty batch; a copy of the mean,
        # because a larger batch may update the statistics before this one's backward.
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean.clone() * scale
        return input * scale.view(shape) + shift.view(shape)


@MODELS.register_module()
class SingleValueBatchNorm1d(_SingleValueMixin, nn.BatchNorm1d):
    """``nn.BatchNorm1d`` for (B, C) or (B, C, length) that trains on any number of rows."""


@MODELS.register_module()
class SingleValueBatchNorm2d(_SingleValueMixin, nn.BatchNorm2d):
    """``nn.BatchNorm2d`` for (B, C, H, W) that trains on any number of values per channel."""
