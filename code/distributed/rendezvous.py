"""Whether an elastic launcher of a run listens already; asked by ``tools/dist_train.sh``."""

import sys
import time
from collections.abc import Sequence
from datetime import timedelta

from thinktwice.distributed.launch import connect
from thinktwice.distributed.ranks import ProcessPlace

STRANGER_EXIT_CODE = 3


def holds_rendezvous(address: str, port: int, run_id: str, seconds: float = 5.0) -> bool:
    """Whether the elastic launchers of this run meet there, and not those of another run or some service.

    Args:
        address: Host that listens.
        port: Its port.
        run_id: ``--rdzv_id`` of the run.
        seconds: How long a launcher may take from listening to its first entry.
    """
    client = ProcessPlace(rank=1, world_size=2, local_rank=0, address=address, port=port)
    try:
        store = connect(client, serves=False, patience=timedelta(seconds=seconds))
        end = time.monotonic() + seconds
        while not store.check([f'torch.rendezvous.{run_id}']):  # torch's c10d_rendezvous_backend
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
    except RuntimeError:  # DistError is one
        return False
    return True


def main(argv: Sequence[str]) -> int:
    """Take address, port and run id; return 0 if the run is there, ``STRANGER_EXIT_CODE`` if not."""
    address, port, run_id = argv
    return 0 if holds_rendezvous(address, int(port), run_id) else STRANGER_EXIT_CODE


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
