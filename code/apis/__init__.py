"""Assembling and running: configs, launchers, training, testing.

Nothing is imported here: the check of the environment has to run before torch and
mmengine are imported.
"""
