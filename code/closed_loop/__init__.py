"""Driving in closed loop: agent, controllers, environment, criteria and scores.

Importing this package registers ``Minitown-v0`` with gymnasium.
"""

import gymnasium

from thinktwice.closed_loop.environment import MinitownEnv, RouteRequest
from thinktwice.closed_loop.scoring import Infraction, InfractionKind, RouteResult

gymnasium.register('Minitown-v0', entry_point='thinktwice.closed_loop.environment:MinitownEnv')

__all__ = ['Infraction', 'InfractionKind', 'MinitownEnv', 'RouteRequest', 'RouteResult']
