"""What differs between the config of a checkpoint and that of the run that resumes it."""

import difflib

IRRELEVANT = ('work_dir', 'resume', 'load_from', 'launcher', 'trust_checkpoint', 'log_level')
"""Top-level keys that do not change what is computed."""


def config_changes(saved: str, present: str, limit: int = 20) -> list[str]:
    """Lines that were removed (``-``) and added (``+``) between two config texts.

    The saved text comes from a checkpoint, so it is compared as text and never run.

    Args:
        saved: Config text of the checkpoint.
        present: Config text of this run.
        limit: Most lines to return; a last line says how many more there are.

    Returns:
        The changed lines, none if the configs agree.
    """

    def relevant(text: str) -> list[str]:
        lines = [line.rstrip() for line in text.splitlines()]
        return [line for line in lines if line and line.split(' = ')[0] not in IRRELEVANT]

    lines = difflib.unified_diff(relevant(saved), relevant(present), lineterm='', n=0)
    changed = [line for line in lines if not line.startswith(('---', '+++', '@@'))]
    if len(changed) > limit:
        changed[limit:] = [f'... and {len(changed) - limit} more lines']
    return changed
