import numpy as np
import torch

from thinktwice.closed_loop.ego_mlp import train_ego_mlp
from thinktwice.model_code.control import beta_mode_action


def make_samples(count: int) -> list[dict]:
    """Straight plans at the present speed; the steering follows the target point."""
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(count):
        speed, side = rng.uniform(0, 8), rng.uniform(-10, 10)
        steer = side / 20
        samples.append(
            {
                'speed': speed,
                'target_point': np.array([15.0, side], dtype=np.float32),
                'command': int(rng.integers(6)),
                'waypoints': np.stack([[0.5 * step * speed, 0.0] for step in (1, 2, 3, 4)]).astype(
                    np.float32
                ),
                'action_alpha': np.array([4.0, 1 + 10 * (steer + 1)], dtype=np.float32),
                'action_beta': np.array([4.0, 1 + 10 * (1 - steer)], dtype=np.float32),
            }
        )
    return samples


def test_it_learns_what_the_status_tells() -> None:
    samples = make_samples(400)
    predictions = train_ego_mlp(samples[:320]).predict(samples[320:])
    errors, steering = [], []
    for sample, prediction in zip(samples[320:], predictions, strict=True):
        errors.append(np.linalg.norm(prediction['waypoints'].numpy() - sample['waypoints'], axis=1).mean())
        alpha, beta = (torch.from_numpy(sample[f'action_{name}']) for name in ('alpha', 'beta'))
        steering.append((prediction['action'] - beta_mode_action(alpha, beta))[1].abs())
    assert np.mean(errors) < 0.3  # plans reach up to 16 m
    assert np.mean(steering) < 0.03


def test_training_is_repeatable_and_leaves_the_global_generator_alone() -> None:
    samples = make_samples(64)
    state = torch.random.get_rng_state()
    first, second = (train_ego_mlp(samples, epochs=3, seed=5) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
