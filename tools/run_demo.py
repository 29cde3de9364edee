"""Record drives, train, evaluate, show the result: ``python tools/run_demo.py``; ``--help`` lists flags."""

import sys

from thinktwice.start import start

if __name__ == '__main__':
    sys.exit(start('thinktwice.apis.demo'))
