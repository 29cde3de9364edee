"""Random faults in configs, command lines, data and checkpoints, each followed by a run of two steps.

A run may do its work, or end with one line ``error: ...``. A case follows from its seed alone, and the
folder of one that does neither stays for a look at its ``output``:

    python tests/helpers/fuzz.py FOLDER --seeds 0:500 --jobs 2
    python tests/helpers/fuzz.py FOLDER --seeds 17:18

Importing takes longer than a run, so every case is a fork of a process that has imported everything; and
configs are not formatted for reading, which takes longer still.
"""

import argparse
import ast
import contextlib
import copy
import os
import random
import re
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from helpers.commands import REPOSITORY, exit_with, load_command
from helpers.damage import damaged_bytes, damaged_content, edit, editable, paths_of
from helpers.tiny_dataset import write_dataset
from mmengine.config import Config
from mmengine.config import config as mmengine_config
from mmengine.model import BaseModel

import thinktwice.apis
from thinktwice.command_line import run_command
from thinktwice.datasets.packing.datasets import pack_dataset
from thinktwice.datasets.packing.frames import PackSettings

TRAIN, TEST = 'train.py', 'tools/test.py'
MAIN = {name: load_command(name)['main'] for name in (TRAIN, TEST)}
CONFIG = f"""
_base_ = ['{REPOSITORY}/configs/thinktwice_minitown.py']
is_dev = True
image_size = (32, 64)
batch_size = 2
num_cameras = 2
warmup_iters = 1
visualizer = dict(vis_backends=[dict(type='LocalVisBackend')])
train_cfg = dict(max_iters=2)
val_dataloader = dict(dataset=dict(split=dict(_delete_=True, towns=['town01'], indices=['00'], caps=2)))
"""
TEXTS = (
    *('None', 'True', '0', '-1', '2.5', '1e30', 'nan', 'inf', 'abc', '', '[]', '1,2', '(1,2)', "'x'"),
    *('{}', "{'a':1}", '[1', '${a}', '${model}', 'é'),
)
MOST_SECONDS, MOST_CHARACTERS = 180.0, 1500  # of a case and of its error line


@dataclass
class Case:
    """A command with its arguments, and what was done to its files."""

    command: str
    argv: list[str]
    change: str
    is_exact: bool = False  # metrics, if there are any, are those of the valid checkpoint
    may_do_nothing: bool = False  # the checkpoint may say that all steps are done


class Base:
    """The valid config, datasets and checkpoint that all cases start from, made once in a folder."""

    def __init__(self, folder: Path) -> None:
        self.data = recorded, packed = folder / 'recorded', folder / 'packed'
        self.config, self.checkpoint = folder / 'base.py', folder / 'run' / 'iter_1.pth'
        self.metrics = folder / 'metrics.json'
        if not folder.is_dir():
            folder.mkdir(parents=True)
            self.config.write_text(CONFIG + f'data_root = {str(recorded)!r}\n')
            write_dataset(recorded, {'town01_00/routes_a': 9})
            reports = pack_dataset(str(recorded), str(packed), PackSettings(final_size=(32, 64)))
            assert not any(report.error for report in reports)
            (recorded / 'dataset_metadata.json').unlink()  # the pickle is read where it is alone
            one_step = ['--no-validate', '--cfg-options', 'train_cfg.max_iters=1']
            evaluation = [str(self.checkpoint), '--out', str(self.metrics)]
            for command, argv in ((TRAIN, one_step), (TEST, evaluation)):
                argv = [str(self.config), *argv, '--work-dir', str(self.checkpoint.parent)]
                if not (child := os.fork()):  # this process runs nothing before the cases
                    os._exit(run_command(MAIN[command], argv))
                assert os.waitpid(child, 0)[1] == 0
        thinktwice.apis.init_model(self.config, device='cpu')  # imports what a registry looks up first
        self.tree = editable(Config.fromfile(self.config).to_dict())


def config_paths(tree: dict) -> list[tuple]:
    """Paths of the entries of a config that a run reads; compiling takes minutes."""
    left_out = ('_', 'data_root', 'compile', 'data_modes.full', 'data_modes.default')
    return [path for path in paths_of(tree) if not '.'.join(map(str, path)).startswith(left_out)]


def config_case(base: Base, folder: Path, rng: random.Random) -> Case:
    """A config with one or two edits."""
    tree = copy.deepcopy(base.tree)
    changes = [edit(tree, rng, rng.choice(config_paths(tree))) for _ in range(rng.choice((1, 1, 2)))]
    lines = [f'{key} = {value!r}' for key, value in tree.items()]
    config = folder / 'config.py'
    config.write_text("inf, nan = float('inf'), float('nan')\n" + '\n'.join(lines))
    if rng.random() < 0.2:
        return Case(TEST, [str(config), str(base.checkpoint)], '; '.join(changes))
    flags = rng.choice(([], ['--no-validate']))
    return Case(TRAIN, [str(config), *flags], '; '.join([*flags, *changes]))


def override_case(base: Base, folder: Path, rng: random.Random) -> Case:
    """Overrides on the command line."""
    paths = ['.'.join(map(str, path)) for path in config_paths(base.tree)]
    paths += ['recompute', 'ema_momentum', 'model_wrapper_cfg.type', 'strict_load', 'resume']
    pairs = [f'{rng.choice(paths)}={rng.choice(TEXTS)}' for _ in range(rng.choice((1, 1, 2)))]
    flags = rng.choice(([], ['--no-validate'], ['--no-validate'], ['--amp'], ['--autoscale-lr']))
    argv = [*flags, '--cfg-options', *pairs]
    return Case(TRAIN, [str(base.config), *argv], ' '.join(argv))


def data_case(base: Base, folder: Path, rng: random.Random) -> Case:
    """A recorded or packed dataset with one damaged file, or all of a kind."""
    root = folder / 'data'
    shutil.copytree(rng.choice(base.data), root)
    groups: dict[str, list[Path]] = {}
    for path in sorted(root.rglob('*')):
        if path.is_file():
            groups.setdefault(path.parent.name + path.suffix, []).append(path)
    group = groups[rng.choice(sorted(groups))]
    damage = damaged_content if rng.random() < 0.6 else damaged_bytes
    changes = [damage(path, rng) for path in (group if rng.random() < 0.3 else [rng.choice(group)])]
    options = ['--cfg-options', f'data_root={root}']
    if rng.random() < 0.2:
        return Case(TEST, [str(base.config), str(base.checkpoint), *options], '; '.join(changes))
    return Case(TRAIN, [str(base.config), '--no-validate', *options], '; '.join(changes))


def checkpoint_case(base: Base, folder: Path, rng: random.Random) -> Case:
    """A damaged checkpoint that is evaluated, loaded or resumed."""
    path = folder / 'work' / 'iter_1.pth'
    path.parent.mkdir()
    shutil.copy(base.checkpoint, path)
    (path.parent / 'last_checkpoint').write_text(path.name)
    in_bytes = rng.random() < 0.5
    change = damaged_bytes(path, rng) if in_bytes else damaged_content(path, rng)
    use = rng.choice(('test', '--load-from', '--resume-from', '--resume'))
    if use == 'test':
        return Case(TEST, [str(base.config), str(path)], change, is_exact=in_bytes)
    argv = [str(base.config), '--no-validate', use, *([str(path)] if use != '--resume' else [])]
    return Case(TRAIN, argv, f'{use}: {change}', may_do_nothing='.pth: meta.' in change)


KINDS = (config_case, override_case, data_case, checkpoint_case)
#: Tells that a step was done. Without a file of its own it is no user's code in a traceback.
COUNTING = """
def counted(self, *args, step=BaseModel.train_step, **kwargs):
    result = step(self, *args, **kwargs)
    file.write_text('a step')
    return result
BaseModel.train_step = counted
"""


def run(case: Case, folder: Path) -> None:
    """Run a case in this process, which ends with the exit code."""
    os.setsid()
    os.chdir(folder)
    output = os.open('output', os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    exec(compile(COUNTING, '<counting>', 'exec'), {'BaseModel': BaseModel, 'file': folder / 'steps'})
    argv = [*case.argv, '--work-dir', 'work', *(['--out', 'metrics.json'] if case.command == TEST else [])]
    exit_with(lambda: run_command(MAIN[case.command], argv))


def outcome_of(case: Case, folder: Path, base: Base, code: int | None) -> str:
    """How a case ended (``code`` None: it did not), beginning with FAULT where that is not allowed."""
    output = (folder / 'output').read_text(errors='replace')
    errors = re.findall(r'^error.*', output, re.MULTILINE)
    done = folder / ('steps' if case.command == TRAIN else 'metrics.json')
    if code is None:
        return 'FAULT: hang'
    if code < 0:
        return f'FAULT: signal {signal.Signals(-code).name}'
    if 'Traceback' in output:
        return f'FAULT: traceback, {output.strip().splitlines()[-1][:150]}'
    if code not in (0, 1, 2, 75, 130) or len(errors) != (code in (1, 2)):
        return f'FAULT: exit code {code} with {len(errors)} error lines'
    if errors and len(errors[0]) > MOST_CHARACTERS:
        return f'FAULT: an error line of {len(errors[0])} characters'
    if code == 0 and not done.is_file() and not case.may_do_nothing:
        return 'FAULT: exit code 0 with nothing done'
    if code == 0 and case.is_exact and done.read_text() != base.metrics.read_text():
        return 'FAULT: metrics of damaged weights'
    return errors[0][:300] if errors else f'exit code {code}'


def run_cases(folder: Path, base: Base, seeds: range) -> int:
    """Run one case after another; returns how many ended in what is not allowed."""
    faults = 0
    for seed in seeds:
        place = folder / f'case_{seed}'
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        case = KINDS[seed % len(KINDS)](base, place, random.Random(seed))
        if not (child := os.fork()):
            run(case, place)
        code, deadline = None, time.monotonic() + MOST_SECONDS
        while code is None and time.monotonic() < deadline:
            time.sleep(0.02)
            done, status = os.waitpid(child, os.WNOHANG)
            code = os.waitstatus_to_exitcode(status) if done else None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # its loader workers, too
        if code is None:
            os.waitpid(child, 0)
        outcome = outcome_of(case, place, base, code)
        print(f'seed {seed}: {case.command} {case.change}\n    {outcome}', flush=True)
        faults += outcome.startswith('FAULT')
        if not outcome.startswith('FAULT'):
            shutil.rmtree(place)
    return faults


def main() -> int:
    """Run the cases of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('folder', type=Path)
    parser.add_argument('--seeds', default='0:500', help='FIRST:END')
    parser.add_argument('--jobs', type=int, default=2)
    args = parser.parse_args()
    vars(mmengine_config)['FormatCode'] = lambda text, **style: (text, bool(ast.parse(text)))
    folder, seeds = args.folder.resolve(), range(*map(int, args.seeds.split(':')))
    base = Base(folder / 'base')
    children = []
    for job in range(args.jobs):
        children.append(os.fork())
        if not children[-1]:
            os._exit(min(run_cases(folder, base, seeds[job :: args.jobs]), 100))
    return sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)


if __name__ == '__main__':
    sys.exit(main())
