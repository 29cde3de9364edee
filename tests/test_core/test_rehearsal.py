"""What is computed before a run starts changes nothing, and names the part that does not fit."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import DataLoader, Dataset

from thinktwice.core.rehearsal import first_batch, rehearse_evaluation, rehearse_losses
from thinktwice.errors import StartError


class Numbers(Dataset):
    """Opens its file at the first read."""

    file: Any = None

    def __init__(self, length: int = 7) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        self.file = open(__file__)  # noqa: SIM115
        return index


class Layers(BaseModel):
    """Two layers, the second of which may not fit the first."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
        self.second = nn.Linear(width, 1)

    def forward(self, inputs: Any = None, mode: str = 'loss', **others: Any) -> Any:
        outputs = self.second(self.first(inputs))
        return {'loss': outputs.mean()} if mode == 'loss' else [{'value': row} for row in outputs]


class CountMetric(BaseMetric):
    """Counts in an attribute besides its results."""

    default_prefix = 'toy'
    metric_names = ('count', 'other')
    seen = 0

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        self.seen += 1
        self.results.append(data_samples[0])
        self.metric_names = ('count',)

    def compute_metrics(self, results: list) -> dict:
        return {'count': len(results)}


def test_samples_from_all_over_are_read_by_a_copy_of_the_dataset() -> None:
    loader = DataLoader(Numbers(), collate_fn=list)
    assert first_batch(loader, 2) == [0, 3]
    assert first_batch(loader, 1) == [0]
    assert first_batch(DataLoader(Numbers(1), collate_fn=list), 2) == [0]
    assert loader.dataset.file is None


def test_losses_are_computed_without_a_change() -> None:
    model = Layers().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch = {'inputs': torch.rand(4, 2)}
    state = torch.get_rng_state()
    loss = rehearse_losses(model, batch)
    assert loss.requires_grad
    assert model.training and model.first[1].training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_error_in_code_of_one_s_own_keeps_its_traceback() -> None:
    model = Layers(width=5).train()
    with pytest.raises(RuntimeError, match='shapes cannot be multiplied') as caught:
        rehearse_losses(model, {'inputs': torch.rand(2, 2)})
    assert not isinstance(caught.value, StartError)
    assert model.training


@pytest.mark.parametrize('has_file', [False, True])
def test_an_evaluation_leaves_nothing_in_the_metrics_but_their_names(has_file: bool) -> None:
    metric = CountMetric()
    loader = DataLoader(Numbers(), collate_fn=lambda numbers: {'inputs': torch.ones(len(numbers), 2)})
    model = Layers().train()
    with open(__file__) as file:
        if has_file:  # there is no copy of it
            metric.file = file
        rehearse_evaluation(model, SimpleNamespace(dataloader=loader, evaluator=Evaluator(metric)))
    assert metric.results == [] and metric.seen == 0
    assert metric.metric_names == (('count', 'other') if has_file else ('count',))
    assert model.training
