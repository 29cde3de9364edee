"""Evaluate a checkpoint: ``python tools/test.py CONFIG CHECKPOINT``; ``--help`` lists the flags."""

import sys

from thinktwice.start import start

if __name__ == '__main__':
    sys.exit(start('thinktwice.apis.test'))
