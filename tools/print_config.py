"""Print a resolved config: ``python tools/print_config.py CONFIG [--cfg-options KEY=VALUE ...]``."""

import sys

from thinktwice.start import start

if __name__ == '__main__':
    sys.exit(start('thinktwice.apis.print_config'))
