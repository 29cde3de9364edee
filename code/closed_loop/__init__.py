"""Driving in closed loop: agent, controllers, environment, criteria and scores."""
