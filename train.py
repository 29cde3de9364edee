"""Entrance of training: ``python train.py CONFIG [flags]``; ``--help`` lists the flags."""

import sys

from thinktwice.apis.start import start

if __name__ == '__main__':
    sys.exit(start('thinktwice.apis.train'))
