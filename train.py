"""Entrance of training: ``python train.py CONFIG [flags]``; ``--help`` lists the flags."""

import sys

try:
    from thinktwice.start import start
except ModuleNotFoundError:  # nothing but this package and the standard library is imported there
    sys.exit(
        f'error: no thinktwice in {sys.executable}: run `make setup`, then `.venv/bin/python train.py ...`'
    )

if __name__ == '__main__':
    sys.exit(start('thinktwice.apis.train'))
