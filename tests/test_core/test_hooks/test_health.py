"""Variation, dead units and gradients of layers against numpy, and warnings about layers that died."""

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from thinktwice.core.hooks import HealthHook, health

BATCHES = (3, 4, 2)
STEPS = 5


class Model(nn.Module):
    """A head that is called on maps and on K predicted maps per sample, and parts that died."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 6), nn.ReLU())
        self.head = nn.Linear(6, 3)
        self.parts = nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2)])

    def forward(self, inputs: Tensor) -> dict[str, Any]:
        features = self.encoder(inputs)
        vector = self.head(features)
        steps = torch.stack([features, 2 * features], dim=1).flatten(0, 1)
        self.head(steps)
        return dict(list=[self.parts[0](vector)], constant=self.parts[1](torch.ones(len(inputs), 3)))


class Run:
    """What the hook uses of a runner."""

    def __init__(self, model: nn.Module) -> None:
        self.bare_model = model
        self.optim_wrapper = SimpleNamespace(optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
        self.scalars: dict[str, float] = {}
        self.warnings: list[str] = []
        self.infos: list[str] = []
        self.logger = SimpleNamespace(warning=self.warnings.append, info=self.infos.append)
        self.message_hub = SimpleNamespace(update_scalar=self.scalars.__setitem__)

    def evaluate(self, hook: HealthHook, batches: list[Tensor]) -> None:
        hook.before_val_epoch(self)
        for index, batch in enumerate(batches):
            hook.before_val_iter(self, index, {'metas': [{}] * len(batch)})
            with torch.no_grad():
                self.bare_model(batch)
        metrics = {'open_loop/ade': 1.0}
        hook.after_val_epoch(self, metrics)
        assert {f'val/{name}': value for name, value in metrics.items()} == {
            **self.scalars,
            'val/open_loop/ade': 1.0,
        }


def make_batches() -> list[Tensor]:
    return [torch.randn(size, 4) for size in BATCHES]


def by_hand(outputs: np.ndarray) -> tuple[float, float]:
    """Variation and dead share of (samples, units), unit by unit."""
    deviations = [np.std(outputs[:, unit]) for unit in range(outputs.shape[1])]
    dead = [not outputs[:, unit].any() for unit in range(outputs.shape[1])]
    return float(np.mean(deviations) / np.abs(outputs).mean()), float(np.mean(dead))


def test_values_equal_numpy_over_all_samples():
    model, batches = Model(), make_batches()
    with torch.no_grad():
        model.encoder[0].bias[:2] = -100.0  # two units are never active
    run, hook = Run(model), HealthHook(['encoder', 'head', 'parts.*'])
    run.evaluate(hook, batches)
    samples = torch.cat(batches)
    with torch.no_grad():
        features = model.encoder(samples)
        steps = torch.stack([features, 2 * features], dim=1)  # (samples, K, units)
        outputs = {
            'encoder': features,
            'head': model.head(features),
            'head_2': model.head(steps).flatten(1),
            'parts.0': model.parts[0](model.head(features)),
            'parts.1': model.parts[1](torch.ones(len(samples), 3)),
        }
    assert {name.split('/')[2] for name in run.scalars} == set(outputs)
    for name, output in outputs.items():
        variation, dead = by_hand(output.double().numpy())
        assert run.scalars[f'val/health/{name}/variation'] == pytest.approx(variation, rel=1e-4, abs=1e-6)
        assert run.scalars[f'val/health/{name}/dead'] == dead
    assert run.scalars['val/health/encoder/dead'] >= 2 / 6
    assert not any(module._forward_hooks for module in model.modules())


def test_batches_and_ranks_do_not_matter(monkeypatch):
    model, batches = Model(), make_batches()
    whole, hook = Run(model), HealthHook(['encoder', 'head'])
    whole.evaluate(hook, [torch.cat(batches)])
    others: list[Tensor] = []
    monkeypatch.setattr(health, 'all_reduce', lambda own, op: others.append(own.clone()))
    Run(model).evaluate(hook, batches[1:])  # what another rank has
    monkeypatch.setattr(health, 'all_reduce', lambda own, op: own.add_(others[0]))
    parted = Run(model)
    parted.evaluate(hook, batches[:1])
    assert parted.scalars == pytest.approx(whole.scalars, rel=1e-9)


def test_one_sample_alone_says_nothing_about_a_layer():
    run = Run(Model())
    run.evaluate(HealthHook(['encoder', 'parts.1']), make_batches()[0][None, :1])
    assert not run.warnings and not run.scalars


def test_layers_that_died_are_named():
    model = Model()
    with torch.no_grad():
        model.encoder[0].bias.fill_(-100.0)
    run = Run(model)
    run.evaluate(HealthHook(['encoder', 'parts.0', 'parts.1']), make_batches())
    [warning] = run.warnings
    assert '100% of the outputs of encoder are zero' in warning
    assert 'output of parts.0 is nearly the same' in warning and 'output of parts.1 is nearly' in warning
    healthy = Run(Model())
    healthy.evaluate(HealthHook(['encoder', 'head']), make_batches())
    assert not healthy.warnings
    assert '| head ' in healthy.infos[0]


def test_gradients_are_means_over_every_so_many_updates():
    model = Model()
    run, hook = Run(model), HealthHook(['encoder', 'head', 'parts.1'], interval=2)
    hook.before_train(run)
    measured = []
    for batch in itertools.islice(itertools.cycle(make_batches()), STEPS):
        run.optim_wrapper.optimizer.zero_grad()
        model(batch)['list'][0].square().sum().backward()
        measured.append(
            [
                np.sqrt(sum(float(p.grad.square().sum()) for p in part.parameters()))
                for part in (model.encoder, model.head)
            ]
        )
        run.optim_wrapper.optimizer.step()
    run.evaluate(hook, make_batches())
    expected = np.mean(measured[::2], axis=0)
    found = [run.scalars[f'val/health/{name}/gradient'] for name in ('encoder', 'head')]
    assert found == pytest.approx(expected, rel=1e-5)
    assert any('parts.1 gets no gradient' in warning for warning in run.warnings)
    run.scalars.clear()
    run.evaluate(hook, make_batches())  # no update since
    assert not any('gradient' in name for name in run.scalars)
    hook.clean_up(run)
    assert not run.optim_wrapper.optimizer._optimizer_step_pre_hooks


class NoHostWaits(TorchDispatchMode):
    """Refuses operations whose result the host has to see."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert 'local_scalar_dense' not in str(func) and 'nonzero.default' not in str(func), func
        return func(*args, **(kwargs or {}))


def test_steps_do_not_wait_for_the_device():
    model = Model()
    run, hook = Run(model), HealthHook(['encoder', 'head'], interval=1)
    hook.before_train(run)
    model(torch.randn(3, 4))['list'][0].sum().backward()
    before = [p.grad.clone() for p in model.encoder.parameters()]
    with NoHostWaits():
        hook._gradients._measure()
        hook.before_val_epoch(run)
        hook.before_val_iter(run, 0, {'metas': [{}] * 3})
        model(torch.randn(3, 4))
    assert all(torch.equal(p.grad, old) for p, old in zip(model.encoder.parameters(), before, strict=True))
    hook.clean_up(run)


def test_models_without_such_layers_have_no_values():
    run, hook = Run(nn.Sequential(nn.Linear(4, 2))), HealthHook()
    hook.before_train(run)
    run.optim_wrapper.optimizer.step()
    run.evaluate(hook, make_batches())
    assert not run.scalars and not run.warnings and not run.infos
