"""Differences of configs: between a checkpoint and the run that resumes it, and between ranks."""

import difflib
import hashlib

from mmengine.config import Config
from mmengine.dist import all_gather_object, broadcast_object_list, get_rank

from thinktwice.errors import LaunchError

IRRELEVANT = ('work_dir', 'resume', 'load_from', 'launcher', 'trust_checkpoint', 'log_level')
"""Top-level keys that do not change what is computed."""


def config_changes(saved: str, present: str, limit: int = 20) -> list[str]:
    """Lines that were removed (``-``) and added (``+``) between two config texts.

    The saved text comes from a checkpoint, so it is compared as text and never executed.

    Args:
        saved: Config text of the checkpoint.
        present: Config text of this run.
        limit: Maximum number of lines; a last line says how many more there are.

    Returns:
        The changed lines, none if the configs are equal.
    """

    def relevant(text: str) -> list[str]:
        lines = [line.rstrip() for line in text.splitlines()]
        return [line for line in lines if line and line.split(' = ')[0] not in IRRELEVANT]

    lines = difflib.unified_diff(relevant(saved), relevant(present), lineterm='', n=0)
    changed = [line for line in lines if not line.startswith(('---', '+++', '@@'))]
    if len(changed) > limit:
        changed[limit:] = [f'... and {len(changed) - limit} more lines']
    return changed


def check_same_config(cfg: Config) -> None:
    """Refuse a run whose ranks were started with different configs or options. Collective.

    Two machines with different command lines, or two elastic runs with the same id, would
    otherwise train a mixture of both, or wait for each other forever.

    Raises:
        LaunchError: On all ranks; those that differ from rank 0 list the differences.
    """
    digests = all_gather_object(hashlib.sha256(repr(cfg.to_dict()).encode()).hexdigest())
    others = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
    if not others:
        return
    text = [cfg.pretty_text]
    own = text[0]
    broadcast_object_list(text)
    listed = ', '.join(map(str, others))
    where = '; '.join(config_changes(text[0], own)) if get_rank() in others else 'its message says in what'
    raise LaunchError(
        f'the config of rank {listed} is not that of rank 0 ({where}). Start all ranks with the same '
        'config and flags, and give each elastic run a --rdzv_id of its own'
    )
