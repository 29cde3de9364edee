"""Training of the town's driving teacher (``tools/train_teacher.py``).

The expert drives simulated routes; a small network learns its control and the value from the BEV masks and
the speed. Nothing is rendered.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thinktwice.minitown.drive import Drive
from thinktwice.minitown.expert.teacher_network import (
    LAYERS,
    NUM_FEATURES,
    NUM_HIDDEN,
    NUM_MASKS,
    SPEED_SCALE,
    quantize,
)
from thinktwice.minitown.expert.teacher_view import SIZE
from thinktwice.minitown.recording.calibration import FRAME_INTERVAL
from thinktwice.minitown.recording.drivers import DECISIONS_PER_FRAME, STEPS_PER_DECISION, NoisyExpert
from thinktwice.minitown.recording.supervision import VALUE_SCALE, teacher_value
from thinktwice.minitown.sensors.sensor_suite import Observation

TRAINING_TOWNS, HELD_OUT_TOWNS = (1, 3, 4, 6), (2, 5)
NOISE = (0.02, 0.35)  # share of decisions that begin a moment of wrong steering, and its error
FRAMES = 120  # per route
TARGET_SCALE = torch.tensor([1.0, 0.2, 1.0])  # acceleration, steer, value: their spread


class Example(NamedTuple):
    """A moment of a drive.

    Attributes:
        masks: (15, 192, 192) uint8, compressed.
        status: (1,) speed.
        target: (3,) acceleration and steer of the expert in [-1, 1], value in [0, 1].
    """

    masks: bytes
    status: np.ndarray
    target: np.ndarray


class Teacher(nn.Module):
    """The network of ``teacher_network`` with batch norms and an output layer, for training."""

    def __init__(self) -> None:
        super().__init__()
        channels = (NUM_MASKS, *(layer[0] for layer in LAYERS))
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels[i], outputs, kernel, stride, bias=False)
            for i, (outputs, kernel, stride) in enumerate(LAYERS)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs) for outputs, _, _ in LAYERS)
        self.hidden = nn.Linear(channels[-1] * 4 + 1, NUM_HIDDEN)
        self.features = nn.Linear(NUM_HIDDEN, NUM_FEATURES)
        self.output = nn.Linear(NUM_FEATURES, 3)

    def forward(self, masks: Tensor, status: Tensor) -> Tensor:
        """Predict the scaled targets (B, 3) from masks (B, 15, 192, 192) in [0, 1] and status (B, 1)."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            masks = norm(convolution(masks)).relu()
        values = torch.cat([masks.flatten(1), status], dim=1)
        return self.output(self.features(self.hidden(values).relu()).relu())

    def arrays(self) -> dict[str, np.ndarray]:
        """Weights of ``TeacherNetwork``, batch norms folded in."""
        layers = []
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            assert norm.running_mean is not None and norm.running_var is not None
            gain = norm.weight / (norm.running_var + norm.eps).sqrt()
            weight = convolution.weight * gain[:, None, None, None]
            layers.append((weight.permute(1, 2, 3, 0), norm.bias - norm.running_mean * gain))
        layers += [(linear.weight.T, linear.bias) for linear in (self.hidden, self.features)]
        arrays = {}
        for i, (weight, bias) in enumerate(layers):
            arrays[f'weight{i}'], arrays[f'scale{i}'] = quantize(weight.detach().numpy())
            arrays[f'bias{i}'] = bias.detach().numpy()
        return arrays


def _observe_nothing() -> Observation:
    raise NotImplementedError('the noisy expert needs no sensors')


def drive_route(town: str, seed: int) -> list[Example]:
    """Let the expert drive a route, with moments of wrong steering."""
    drive, driver = Drive(town, seed, seconds=FRAMES * FRAME_INTERVAL), NoisyExpert(*NOISE)
    driver.reset(drive, np.random.default_rng(seed))
    examples = []
    for _ in range(FRAMES):
        decision = drive.decision
        value = teacher_value(drive.ego.speed, decision.target_acceleration) / VALUE_SCALE
        pedal = -1.0 if decision.hazard else decision.pedal
        examples.append(
            Example(
                zlib.compress(drive.teacher_masks().tobytes(), 1),
                np.array([drive.ego.speed / SPEED_SCALE], dtype=np.float32),
                np.array([pedal, decision.steer, value], dtype=np.float32),
            )
        )
        for _ in range(DECISIONS_PER_FRAME):
            control = driver.control(drive, _observe_nothing)
            for _ in range(STEPS_PER_DECISION):
                drive.step(control)
    return examples


def to_batch(examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """Masks (B, 15, 192, 192) in [0, 1], status (B, 1) and scaled targets (B, 3)."""
    shape = (NUM_MASKS, SIZE, SIZE)
    masks = np.stack([np.frombuffer(zlib.decompress(e.masks), np.uint8).reshape(shape) for e in examples])
    status, targets = (torch.from_numpy(np.stack(part)) for part in list(zip(*examples, strict=True))[1:])
    return (
        torch.from_numpy(masks).float().contiguous(memory_format=torch.channels_last) / 255,
        status,
        targets / TARGET_SCALE,
    )


def collect(towns: Sequence[int], routes: int, seed: int) -> list[Example]:
    """Drive `routes` routes through the towns in turn."""
    examples = []
    for i in range(routes):
        town = f'town{towns[i % len(towns)]:02d}_{i // len(towns) % 12:02d}'
        examples += drive_route(town, seed + i)
    return examples


def explained(model: Teacher, examples: Sequence[Example]) -> list[float]:
    """Share of the variance of acceleration, steer and value that the predictions explain."""
    model.eval()
    with torch.no_grad():
        batches = [to_batch(examples[i : i + 64]) for i in range(0, len(examples), 64)]
        predicted = torch.cat([model(masks, status) for masks, status, _ in batches])
    true = torch.cat([targets for _, _, targets in batches])
    return (1 - (predicted - true).square().mean(0) / true.var(0)).tolist()


def train(
    examples: Sequence[Example], epochs: int, seed: int, report: Callable[[int, float], None]
) -> Teacher:
    """Train on the examples; `report` is called after each epoch with its number and its mean loss."""
    torch.manual_seed(seed)
    model = Teacher().to(memory_format=torch.channels_last)
    steps = -(-len(examples) // 32) * epochs
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for epoch in range(epochs):
        model.train()
        total = 0.0
        order = torch.randperm(len(examples)).split(32)
        for index in order:
            masks, status, targets = to_batch([examples[i] for i in index.tolist()])
            if torch.rand(()) < 0.5:  # the masks show four moments, so the speed can be read from them
                status = torch.zeros_like(status)
            loss = F.smooth_l1_loss(model(masks, status), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        report(epoch + 1, total / len(order))
    return model
