"""Driving many routes in lockstep and in several processes; the results do not depend on their number."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol

import torch

from thinktwice.closed_loop.environment import TOWNS, MinitownEnv, RouteRequest
from thinktwice.closed_loop.policies import BATCH_SIZE, Moment, Policy
from thinktwice.closed_loop.scoring import RouteResult
from thinktwice.errors import UserError


class Watcher(Protocol):
    """Callback for each step of a group of routes, for example to write videos."""

    def step(self, moment: Moment, policy: Policy, action: Any, info: dict[str, Any]) -> None:
        """One step of one route."""

    def close(self) -> None:
        """The group is done."""


def plan_routes(routes: int, seed: int, towns: Sequence[str] = TOWNS) -> list[RouteRequest]:
    """Routes spread over towns in turn.

    Args:
        routes: how many.
        seed: of traffic and routes.
        towns: their names.

    Raises:
        ValueError: if there is no town or fewer than one route.
    """
    if routes < 1 or not towns:
        raise ValueError(f'at least one route and one town are needed, got {routes} and {list(towns)}')
    return [RouteRequest(towns[i % len(towns)], seed, i // len(towns)) for i in range(routes)]


def drive_group(
    policy: Policy,
    requests: Sequence[RouteRequest],
    frequency: int = 10,
    route_length: float = 200.0,
    watcher: Watcher | None = None,
) -> list[RouteResult]:
    """Drive routes in lockstep, each to its end.

    Args:
        policy: drives the vehicles.
        requests: the routes.
        frequency: decisions per second.
        route_length: meters per route.
        watcher: is called at each step.

    Returns:
        The results in the order of the requests.
    """
    envs = [MinitownEnv(policy.sensors, frequency, route_length) for _ in requests]
    active: dict[int, Moment] = {}
    results: dict[int, RouteResult] = {}
    for slot, (env, request) in enumerate(zip(envs, requests, strict=True)):
        observation, info = env.reset(
            seed=request.seed, options={'town': request.town, 'route': request.number}
        )
        active[slot] = Moment(slot, env, observation)
        policy.reset(active[slot], info)
    while active:
        moments = list(active.values())
        for moment, action in zip(moments, policy.act(moments), strict=True):
            observation, _, terminated, truncated, info = moment.env.step(action)
            if watcher is not None:
                watcher.step(moment, policy, action, info)
            if terminated or truncated:
                results[moment.slot] = info['result']
                del active[moment.slot]
            else:
                active[moment.slot] = Moment(moment.slot, moment.env, observation)
    if watcher is not None:
        watcher.close()
    return [results[slot] for slot in range(len(requests))]


def drive_routes(
    make_policy: Callable[[], Policy],
    requests: Sequence[RouteRequest],
    frequency: int = 10,
    route_length: float = 200.0,
    processes: int = 1,
    make_watcher: Callable[[Sequence[RouteRequest]], Watcher] | None = None,
) -> Iterator[tuple[int, RouteResult]]:
    """Drive routes group by group, each group on one thread.

    Args:
        make_policy: makes the policy; called once per process, so it has to be picklable for several.
        requests: the routes.
        frequency: decisions per second.
        route_length: meters per route.
        processes: how many groups are driven at a time.
        make_watcher: makes the watcher of a group.

    Yields:
        Number of a route and its result, in the order in which they are done.

    Raises:
        UserError: A process was killed. What ``make_policy`` raises is raised as it is.
    """
    groups = [list(range(i, min(i + BATCH_SIZE, len(requests)))) for i in range(0, len(requests), BATCH_SIZE)]
    work = [([requests[i] for i in group], frequency, route_length, make_watcher) for group in groups]
    if processes == 1:
        _start_process(make_policy)
        for group, arguments in zip(groups, work, strict=True):
            yield from zip(group, _drive_in_process(*arguments), strict=True)
        return
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(min(processes, len(groups)), context, _start_process, (make_policy,)) as pool:
        pending = {
            pool.submit(_drive_in_process, *arguments): group
            for group, arguments in zip(groups, work, strict=True)
        }
        try:
            while pending:
                done, _ = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    yield from zip(pending.pop(future), future.result(), strict=True)
        except BrokenProcessPool as error:
            raise UserError('a driving process was killed (out of memory?): use fewer --processes') from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_make_policy: Callable[[], Policy]
_policy: Policy | None = None


def _start_process(make_policy: Callable[[], Policy]) -> None:
    """Use one thread, since sums over several differ in their last bits.

    The policy is made by the first group that is driven: an error here would not reach the parent process.
    """
    global _make_policy, _policy
    torch.set_num_threads(1)
    _make_policy, _policy = make_policy, None


def _drive_in_process(
    requests: Sequence[RouteRequest],
    frequency: int,
    route_length: float,
    make_watcher: Callable[[Sequence[RouteRequest]], Watcher] | None,
) -> list[RouteResult]:
    global _policy
    if _policy is None:
        _policy = _make_policy()
    watcher = make_watcher(requests) if make_watcher is not None else None
    return drive_group(_policy, requests, frequency, route_length, watcher)
