"""Compare runs by their logs: values, time per step, differences of their configs, curves.

A run is given by its work dir. What a resumed run logged again replaces what was logged before. Runs of
one config with several seeds form a group: the final values of groups are compared by their means and
95% t intervals, and a difference is reported only where the intervals do not overlap.

Examples:
    python tools/analyze_logs.py work_dirs/demo
    python tools/analyze_logs.py work_dirs/first work_dirs/second --out curves.png
    python tools/analyze_logs.py work_dirs/first --keys 'perception/.*iou'
    python tools/analyze_logs.py --group small=work_dirs/s0,work_dirs/s1,work_dirs/s2 \
        --group large=work_dirs/l0,work_dirs/l1,work_dirs/l2
"""

import argparse
import ast
import itertools
import json
import math
import re
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from thinktwice.command_line import Parser, run_command
from thinktwice.errors import UserError

HIGHER_IS_BETTER = re.compile(r'(iou|recall\w*|samples_per_second)')
LOWER_IS_BETTER = re.compile(
    r'(\w*loss\d*|ade|fde|\w+_offset|\w*_error\w*|(data_)?time|(skipped|overflow)_steps)'
)
UNITS = {
    'ade': 'm',
    'fde': 'm',
    'longitudinal_offset': 'm',
    'lateral_offset': 'm',
    'depth_error': 'm',
    'depth_error_near': 'm',
    'time': 's',
    'data_time': 's',
}
SEED_KEY = 'randomness.seed'
#: One color per run or group: distinct in print and for color-blind readers.
COLORS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#000000')
PANEL_COLUMNS = 3

Curve = list[tuple[int, float]]


@dataclass
class Run:
    """What a run logged.

    Attributes:
        name: For tables and legends.
        config: Value of each entry of the resolved config, by dotted key.
        curves: (iteration, value) of each logged name, in order of iterations.
    """

    name: str
    config: dict[str, str]
    curves: dict[str, Curve]


def read_run(folder: Path, name: str) -> Run:
    """Read the logs of a work dir.

    Raises:
        FileNotFoundError: There is no such folder.
        UserError: It holds no logs, or a file of them is damaged.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f'work dir {folder} does not exist')
    # the folders of starts are named by time
    files = sorted([*folder.glob('vis_data/scalars.json'), *folder.glob('*/vis_data/scalars.json')])
    curves: dict[str, Curve] = {}
    iteration = 0
    for file in files:
        lines = _read_lines(file)
        start = next((line['iter'] for line in lines if 'iter' in line), None)
        if start is not None:
            curves = {key: [point for point in curve if point[0] < start] for key, curve in curves.items()}
            iteration = max((curve[-1][0] for curve in curves.values() if curve), default=0)
        for line in lines:
            # `step` of an evaluation counts epochs or iterations, whatever the loop counts
            iteration = int(line.get('iter', iteration))
            for key, value in line.items():
                if '/' in key:
                    curves.setdefault(key, []).append((iteration, float(value)))
    curves = {key: curve for key, curve in curves.items() if curve}
    if not curves:
        raise UserError(
            f'{folder} holds no values in */vis_data/scalars.json: give the work dir of a training'
        )
    return Run(name, _read_config(files[-1].with_name('config.py')), curves)


def _read_lines(file: Path) -> list[dict[str, float]]:
    lines: list[dict[str, float]] = []
    try:
        for text in file.read_text(encoding='utf-8').splitlines():
            line = json.loads(text)
            if not isinstance(line, dict) or not all(
                isinstance(value, (int, float)) for value in line.values()
            ):
                raise ValueError('it is not a dict of numbers')
            lines.append(line)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f'{file} is damaged or cut short after line {len(lines)} ({error}): remove what follows, '
            'or copy the file again'
        ) from error
    return lines


def _read_config(file: Path) -> dict[str, str]:
    """Entries of a config that a run wrote, by dotted key; the file is parsed and never executed."""
    from thinktwice.config.differences import IRRELEVANT

    try:
        statements = ast.parse(file.read_text(encoding='utf-8')).body
    except (ValueError, SyntaxError, RecursionError) as error:
        raise UserError(f'{file} is damaged: it is not the config that a run writes ({error})') from error
    entries: dict[str, str] = {}
    for statement in statements:
        match statement:
            case ast.Assign(targets=[ast.Name(id=key)], value=value) if key not in IRRELEVANT:
                entries.update(_flatten(key, value))
    return entries


def _flatten(key: str, node: ast.expr) -> Iterator[tuple[str, str]]:
    match node:
        case ast.Call(func=ast.Name(id='dict'), keywords=[_, *_] as keywords):
            for keyword in keywords:
                if keyword.arg is None:  # **{...} of keys that are no names
                    yield from _flatten(key, keyword.value)
                else:
                    yield from _flatten(f'{key}.{keyword.arg}', keyword.value)
        case ast.Dict(keys=[_, *_] as names, values=values):
            for name, value in zip(names, values, strict=True):
                text = name.value if isinstance(name, ast.Constant) else ast.unparse(name or value)
                yield from _flatten(f'{key}.{text}', value)
        case ast.List(elts=[ast.Call() | ast.Dict(), *_] as items):
            for index, item in enumerate(items):
                yield from _flatten(f'{key}.{index}', item)
        case _:
            yield key, ast.unparse(node)


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read runs and name them by their folders, or by the paths where two folders have one name.

    Raises:
        UserError: A run is given twice, or one of its files is damaged.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError('a run is given twice: it would count as two')
    short = [folder.resolve().name for folder in folders]
    names = short if len(set(short)) == len(short) else [str(folder) for folder in folders]
    return [read_run(folder, name) for folder, name in zip(folders, names, strict=True)]


def select_keys(runs: Sequence[Run], pattern: str | None) -> list[str]:
    """Names of values to show, in the order in which they were logged.

    Args:
        runs: The runs.
        pattern: Regular expression that is searched in the names. None selects all but those of parts of
            the samples, such as ``val/open_loop/town/town02/ade``.

    Raises:
        UserError: No name matches.
    """
    keys = list(dict.fromkeys(key for run in runs for key in run.curves))
    chosen = [key for key in keys if (re.search(pattern, key) if pattern else key.count('/') <= 2)]
    if not chosen:
        raise UserError(f'no logged name matches {pattern!r}; there are {", ".join(keys[:5])}, ...')
    return chosen


def final_value(curve: Curve) -> float:
    """The last value."""
    return curve[-1][1]


def best_point(key: str, curve: Curve) -> tuple[int, float] | None:
    """Iteration and best value; None if none is finite, or neither low nor high is known to be better."""
    finite = [point for point in curve if math.isfinite(point[1])]
    sign = _sign(key)
    return min(finite, key=lambda point: sign * point[1]) if finite and sign else None


def _sign(key: str) -> int:
    """1 if lower is better, -1 if higher is, 0 if neither."""
    name = key.rpartition('/')[2]
    return 1 if LOWER_IS_BETTER.fullmatch(name) else -bool(HIGHER_IS_BETTER.fullmatch(name))


def _title(key: str) -> str:
    unit = UNITS.get(key.rpartition('/')[2])
    return f'{key}, {unit}' if unit else key


def values_table(runs: Sequence[Run], keys: Sequence[str]) -> str:
    """Final and best value of each name in each run."""
    from thinktwice.tables import format_table

    rows = []
    for key in keys:
        row = [_title(key)]
        for run in runs:
            curve = run.curves.get(key)
            best = curve and best_point(key, curve)
            row.append(f'{final_value(curve):.4g}' if curve else '-')
            row.append(f'{best[1]:.4g} at {best[0]}' if best else '-')
        rows.append(row)
    header = [f'{run.name}: {column}' for run in runs for column in ('final', 'best at iteration')]
    return format_table(['value', *header], rows)


def time_table(runs: Sequence[Run]) -> str:
    """Median time of a training step and of a batch of evaluation, and the wait for data in it."""
    from thinktwice.tables import format_table

    rows = []
    for run in runs:
        for phase, title in (('train', 'training step'), ('val', 'batch of evaluation')):
            seconds, waiting = (
                [value for _, value in run.curves.get(f'{phase}/{name}', ()) if math.isfinite(value)]
                for name in ('time', 'data_time')
            )
            if seconds and waiting:
                total, data = statistics.median(seconds), statistics.median(waiting)
                share = f'{data / total:.0%}' if total else '-'
                rows.append((run.name, title, f'{total:.4g}', f'{data:.4g}', f'{total - data:.4g}', share))
    return format_table(
        ('run', 'median of a', 'time, s', 'waiting for data, s', 'computing, s', 'share of waiting'), rows
    )


def config_differences(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Entries in which the configs differ: dotted key to the value in each run, ``-`` where it has none."""
    keys = dict.fromkeys(key for run in runs for key in run.config)
    values = {key: [run.config.get(key, '-') for run in runs] for key in keys}
    return {key: found for key, found in values.items() if len(set(found)) > 1}


def differences_table(runs: Sequence[Run]) -> str:
    """The differences of the runs' configs."""
    from thinktwice.tables import format_table

    differences = config_differences(runs)
    if not differences:
        return 'The configs are equal.'
    return format_table(
        ['config', *(run.name for run in runs)], [(key, *values) for key, values in differences.items()]
    )


def mean_and_margin(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95% t interval, of at least two values."""
    from scipy.stats import t

    error = statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values), float(t.ppf(0.975, len(values) - 1)) * error


def verdict(key: str, values: Mapping[str, Sequence[float]]) -> str:
    """Which groups differ in a value: those whose 95% intervals do not overlap.

    Args:
        key: Name of the value, which tells whether lower is better.
        values: Group to the final values of its runs, finite.
    """
    found = []
    for first, second in itertools.combinations(values, 2):
        (mean, margin), (other, other_margin) = (mean_and_margin(values[name]) for name in (first, second))
        if abs(mean - other) <= margin + other_margin:
            continue
        lower, higher = (first, second) if mean < other else (second, first)
        sign = _sign(key)
        found.append(f'{lower if sign == 1 else higher} is {"better" if sign else "higher"}')
        if len(values) > 2:
            found[-1] += f' than {higher if sign == 1 else lower}'
    return '; '.join(found) or 'no difference shown'


def groups_table(groups: Mapping[str, Sequence[Run]], keys: Sequence[str]) -> str:
    """Mean and 95% interval of the final values of each group, and which groups differ."""
    from thinktwice.tables import format_table

    rows = []
    for key in keys:
        values = {
            name: [final_value(run.curves[key]) for run in runs if key in run.curves]
            for name, runs in groups.items()
        }
        complete = {
            name: found
            for name, found in values.items()
            if len(found) == len(groups[name]) and all(map(math.isfinite, found))
        }
        row = [_title(key)]
        for name in groups:
            mean, margin = mean_and_margin(complete[name]) if name in complete else (math.nan, math.nan)
            row.append(f'{mean:.4g} ± {margin:.2g}' if name in complete else '-')
        if len(groups) > 1:
            missing = [name for name in groups if name not in complete]
            row.append(
                f'not compared: missing or not finite in {", ".join(missing)}'
                if missing
                else verdict(key, complete)
            )
        rows.append(row)
    titles = [f'{name} ({len(runs)} runs)' for name, runs in groups.items()]
    return format_table(['final value', *titles, *(['difference'] if len(groups) > 1 else [])], rows)


def doubts(name: str, runs: Sequence[Run]) -> list[str]:
    """Why the runs of a group may not be several seeds of one config."""
    found = []
    other = [key for key in config_differences(runs) if key != SEED_KEY]
    if other:
        found.append(f'note: the runs of {name} differ in more than the seed: {", ".join(other[:5])}')
    seeds = [run.config.get(SEED_KEY) for run in runs]
    if len(set(seeds)) < len(seeds):
        found.append(f'note: two runs of {name} have one seed ({seeds}): the interval may be too narrow')
    return found


def draw_curves(groups: Mapping[str, Sequence[Run]], keys: Sequence[str], path: Path) -> None:
    """Write a PNG with a panel per name and a color per group.

    Raises:
        WriteError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    from thinktwice.files import write_atomically

    columns = min(PANEL_COLUMNS, len(keys))
    rows = math.ceil(len(keys) / columns)
    figure = Figure(figsize=(4.6 * columns, 2.8 * rows + 0.5), dpi=100, layout='constrained')
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    handles = {}
    for panel, key in zip(panels, keys, strict=False):
        for (name, runs), color in zip(groups.items(), itertools.cycle(COLORS), strict=False):
            for run in runs:
                if curve := run.curves.get(key):
                    marker = '.' if len(curve) < 30 else ''
                    (handles[name],) = panel.plot(*zip(*curve, strict=True), color=color, marker=marker, lw=1)
        panel.set_title(_title(key), fontsize=9)
        panel.set_xlabel('iteration', fontsize=8)
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.3)
    for panel in panels[len(keys) :]:
        panel.set_visible(False)
    figure.legend(handles.values(), handles, loc='outside upper left', ncols=4, frameon=False)
    write_atomically(path, lambda file: figure.savefig(file, format='png'))


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; ``--help`` describes it."""
    parser = Parser(__doc__)
    parser.add_argument('runs', type=Path, nargs='*', metavar='WORK_DIR', help='work dirs of runs')
    parser.add_argument(
        '--group',
        type=_group,
        action='append',
        default=[],
        metavar='NAME=WORK_DIR,WORK_DIR,...',
        help='runs of one config with different seeds; give it once per config',
    )
    parser.add_argument(
        '--keys',
        type=_pattern,
        metavar='REGEX',
        help='values to show; default: all but the metrics of parts of the samples',
    )
    parser.add_argument('--out', type=Path, metavar='FILE.png', help='write the curves to a PNG file')
    arguments = parser.parse_args(argv)
    if bool(arguments.runs) == bool(arguments.group):
        parser.error('give either work dirs or groups of them')
    if len(dict(arguments.group)) < len(arguments.group):
        parser.error('two groups have one name')
    return arguments


def _group(text: str) -> tuple[str, list[Path]]:
    name, _, folders = text.partition('=')
    runs = [Path(folder) for folder in folders.split(',') if folder]
    if not name or len(runs) < 2:
        raise argparse.ArgumentTypeError(f'expected NAME=RUN,RUN,... with at least two runs, got {text!r}')
    return name, runs


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f'{text!r} is no regular expression: {error}') from error
    return text


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    arguments = parse_arguments(argv)
    named: dict[str, list[Path]] = dict(arguments.group)
    runs = read_runs(arguments.runs or [folder for folders in named.values() for folder in folders])
    keys = select_keys(runs, arguments.keys)
    if named:
        rest = iter(runs)
        groups = {name: list(itertools.islice(rest, len(folders))) for name, folders in named.items()}
        sections = [
            '\n'.join(
                [groups_table(groups, keys), *(note for item in groups.items() for note in doubts(*item))]
            )
        ]
        compared = [Run(name, members[0].config, {}) for name, members in groups.items()]
    else:
        groups = {run.name: [run] for run in runs}
        sections = [values_table(runs, keys)]
        compared = runs
    sections.append(time_table(runs))
    if len(compared) > 1:
        sections.append(differences_table(compared))
    print('\n\n'.join(sections))
    if arguments.out:
        draw_curves(groups, keys, arguments.out)
        print(f'wrote {arguments.out}')


if __name__ == '__main__':
    sys.exit(run_command(main))
