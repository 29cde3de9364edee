"""All processes of a run have to be started with the same config."""

import hashlib

from mmengine.config import Config
from mmengine.dist import all_gather_object, broadcast_object_list, get_rank

from thinktwice.config.differences import config_changes
from thinktwice.errors import LaunchError


def check_same_config(cfg: Config) -> None:
    """Refuse a run whose processes were started with other configs or options. Collective.

    Two machines with different command lines, or two elastic runs that met by the same id, would
    otherwise train a mixture of both, or wait for each other for ever.

    Raises:
        LaunchError: On all processes; those that differ from the first say in what.
    """
    digest = hashlib.sha256(repr(cfg.to_dict()).encode()).hexdigest()
    digests = all_gather_object(digest)
    others = [rank for rank, other in enumerate(digests) if other != digests[0]]
    if not others:
        return
    text = [cfg.pretty_text]
    own = text[0]
    broadcast_object_list(text)
    listed = ', '.join(map(str, others))
    where = '; '.join(config_changes(text[0], own)) if get_rank() in others else 'they say in what'
    raise LaunchError(
        f'the config of rank {listed} is not that of rank 0 ({where}). Start all processes with the same '
        'config and flags, and give each elastic run a --rdzv_id of its own'
    )
