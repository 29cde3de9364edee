"""From a config file and the command line to the config that a run uses."""
