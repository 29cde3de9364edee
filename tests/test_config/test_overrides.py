"""Overrides from the command line reach everything that derives from them, and typing errors are caught."""

import copy
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.config import config as mmengine_config

from thinktwice.command_line import OverrideText, Parser, add_override_flag
from thinktwice.config.load import load_config
from thinktwice.config.overrides import apply_overrides, check_parts
from thinktwice.errors import ConfigError

CONFIG = """
is_dev = False
is_full = False
size = (4, 8)
work = dict(size='${size}', height='${size.0}', nested=['${size}'])
loader = dict(workers=None, split=None, shuffle=True, extra=dict(depth=2))
data_modes = dict(
    default=dict(loader=dict(workers=8, split=dict(towns=['a', 'b']))),
    full=dict(loader=dict(workers=8, split=dict(towns=['a', 'b', 'c']))),
    dev=dict(loader=dict(workers=0, split=dict(towns=['a']))),
)
hook = dict(type='AtomicCheckpointHook', interval=1)
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / 'config.py'
    path.write_text(CONFIG)
    return str(path)


@pytest.mark.parametrize(
    ('options', 'workers', 'towns'),
    [
        ({}, 8, ['a', 'b']),
        ({'is_full': True}, 8, ['a', 'b', 'c']),
        ({'is_dev': True}, 0, ['a']),
        ({'is_dev': True, 'is_full': True}, 0, ['a']),
    ],
)
def test_switch_moves_all_that_derives_from_it(config, options, workers, towns):
    loader = load_config(config, options).loader
    assert loader.workers == workers
    assert loader.split.towns == towns


def test_switch_edited_in_the_file_does_the_same(config):
    Path(config).write_text(CONFIG.replace('is_dev = False', 'is_dev = True'))
    assert load_config(config).loader.workers == 0


def test_explicit_value_wins_over_the_switch(config):
    loader = load_config(config, {'is_dev': True, 'loader.workers': 3}).loader
    assert loader.workers == 3
    assert loader.split.towns == ['a']


def test_table_of_a_mode_can_be_overridden(config):
    cfg = load_config(config, {'is_dev': True, 'data_modes.dev.loader.workers': 2})
    assert cfg.loader.workers == 2


def test_override_inside_a_derived_value_reaches_every_mode(config):
    options = {'loader.split.towns': ['z']}
    assert load_config(config, options).loader.split.towns == ['z']
    assert load_config(config, {**options, 'is_dev': True}).loader.split.towns == ['z']
    with pytest.raises(ConfigError, match='Did you mean towns'):
        load_config(config, {'loader.split.town': ['z']})


def test_reference_follows_an_override(config):
    work = load_config(config, {'size': (16, 32)}).work
    assert tuple(work.size) == (16, 32)
    assert work.height == 16
    assert [tuple(size) for size in work.nested] == [(16, 32)]


def test_a_reference_to_none_leaves_the_item_of_a_list_out(config):
    Path(config).write_text(CONFIG + "step = dict(type='A')\nsteps = ['${step}', None, '${size.0}']\n")
    height = load_config(config).work.height
    assert load_config(config).steps == [dict(type='A'), None, height]
    assert load_config(config, {'step': None}).steps == [None, height]


def test_override_may_be_a_reference(config):
    cfg = load_config(config, {'loader.extra.depth': '${size.1}', 'loader.shuffle': '${is_dev}'})
    assert cfg.loader.extra.depth == 8
    assert cfg.loader.shuffle is False


def test_references_are_not_shared_objects(config):
    Path(config).write_text(CONFIG + "other = '${loader}'\n")
    cfg = load_config(config)
    cfg.other.extra.depth = 9
    assert cfg.loader.extra.depth == 2


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'loadr.workers': 1}, "no key 'loadr'.*Did you mean loader"),
        ({'loader.worker': 1}, "no key 'worker'.*Did you mean workers"),
        ({'loader.extra.depht': 1}, 'Did you mean depth'),
        ({'loader.shuffle.deep': 1}, 'not a dict'),
        ({'hook': 3}, 'this is a dict; set one of its keys: type, interval'),
        ({'loader.extra.depth': 'two'}, "expected a number like 2, got 'two'"),
        ({'loader.shuffle': 'yes'}, "expected True or False, got 'yes'"),
        ({'is_dev': 'yes'}, "is_dev.*expected True or False, got 'yes'"),
        ({'work.nested.3': 1}, 'must be an index below 1'),
        ({'hook.intervall': 1}, 'Did you mean interval'),
        ({'size': 64}, r'size: expected a list like \(4, 8\), got 64'),
        ({'size.2': 64}, 'must be an index below 2'),
        ({'size.0.deep': 64}, 'not a dict'),
        ({'loader.extra': 3}, 'this is a dict; set one of its keys: depth'),
        ({'data_modes': 3}, 'this is a dict; set one of its keys: default, full, dev'),
    ],
)
def test_wrong_override_is_refused_with_a_hint(config, options, message):
    with pytest.raises(ConfigError, match=message):
        load_config(config, options)


def test_item_of_a_tuple_can_be_overridden(config):
    cfg = load_config(config, {'size.0': 16})
    assert cfg.size == (16, 8)
    assert cfg.work.height == 16


def test_dict_replaces_a_value_and_is_merged_into_a_dict(config):
    cfg = load_config(
        config, {'loader.extra': dict(width=3), 'work.height': dict(a=1), 'work.nested.0': dict(b=2)}
    )
    assert cfg.loader.extra == dict(depth=2, width=3)
    assert cfg.work.height == dict(a=1)
    assert cfg.work.nested == [dict(b=2)]
    assert load_config(config, {'loader.extra': dict(_delete_=True, width=3)}).loader.extra == dict(width=3)


def test_entry_inside_of_none_makes_a_dict(config):
    Path(config).write_text(f'{CONFIG}compile = None\n')
    assert load_config(config, {'compile.modules': ['decoder']}).compile == dict(modules=['decoder'])


@pytest.mark.parametrize(
    'options',
    [
        {'optim_wrapper.paramwise_cfg.norm_decay_mult': 0.0},
        {'optim_wrapper.paramwise_cfg': dict(norm_decay_mult=0.0)},
        {'custom_hooks.0.priority': 'LOW'},
    ],
)
def test_what_mmengine_reads_beside_the_constructor_may_be_added(config, options):
    Path(config).write_text(
        f"{CONFIG}optim_wrapper = dict(type='GuardedOptimWrapper', optimizer=dict(type='AdamW'))\n"
        "custom_hooks = [dict(type='WatchdogHook')]\n"
    )
    cfg = load_config(config, options)
    check_parts(cfg)
    if 'custom_hooks.0.priority' in options:
        assert cfg.custom_hooks[0].priority == 'LOW'
    else:
        assert cfg.optim_wrapper.paramwise_cfg == dict(norm_decay_mult=0.0)


def test_argument_of_a_registered_part_may_be_added(config):
    assert load_config(config, {'hook.keep_last': 3}).hook.keep_last == 3


def test_runner_keys_may_be_added(config):
    assert load_config(config, {'load_from': 'a.pth'}).load_from == 'a.pth'
    cfg = load_config(config, {'model_wrapper_cfg.find_unused_parameters': True})
    assert cfg.model_wrapper_cfg == dict(find_unused_parameters=True)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ("a = '${b}'", r'\$\{b\} refers to a key that the config does not have'),
        ("a = '${b}'\nb = '${a}'", 'in a circle'),
        ('is_dev = True', 'no data_modes, so is_dev=True would change nothing'),
        (
            'data_modes = dict(default=dict(loader=1))',
            'data_modes sets loader, which the config does not have',
        ),
        ('\na = (', 'config.py, line 2: SyntaxError'),
        ('\na = 1 / 0', 'config.py, line 2: ZeroDivisionError: division by zero'),
        ('a = 1\nb = c', "config.py, line 2: NameError: name 'c' is not defined"),
        ('import nothing_like_this', 'config.py, line 1: ModuleNotFoundError: .*nothing_like_this'),
        ('raise SystemExit(3)', 'config.py, line 1: SystemExit: 3'),
        ("_base_ = ['missing.py']", 'config.py, base .*missing.py: FileNotFoundError'),
        ("_base_ = ['broken.py']", 'config.py, base .*broken.py, line 2: ZeroDivisionError'),
        ("_base_ = ['torn.py']", 'config.py, base .*torn.py, line 2: SyntaxError'),
    ],
)
def test_broken_config_names_the_place(tmp_path, text, message):
    path = tmp_path / 'config.py'
    path.write_text(text + '\n')
    (tmp_path / 'broken.py').write_text('\na = 1 / 0\n')
    (tmp_path / 'torn.py').write_text('\na = (\n')
    with pytest.raises((ConfigError, FileNotFoundError), match=message):
        load_config(str(path))


def test_missing_config_suggests_a_neighbor(config):
    with pytest.raises(FileNotFoundError, match='does not exist. Did you mean .*config.py'):
        load_config(config.replace('config.py', 'confg.py'))


def test_folder_as_config_names_the_files_in_it(config):
    with pytest.raises(ConfigError, match='is a folder: name a file. Did you mean .*config.py'):
        load_config(str(Path(config).parent))


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('is_devv = True', "leaf.py, line 2: nothing reads 'is_devv'. Did you mean is_dev"),
        ('siz = (3, 4)', 'Did you mean size'),
        ('trian_cfg = dict()', 'Did you mean train_cfg'),
        ('work_dirr, loader = "a", dict()', 'Did you mean work_dir'),
    ],
)
def test_misspelt_name_in_a_file_is_refused(config, tmp_path, line, message):
    path = tmp_path / 'leaf.py'
    path.write_text(f"_base_ = ['config.py']\n{line}\n")
    with pytest.raises(ConfigError, match=message):
        load_config(str(path))


@pytest.mark.parametrize(
    'line',
    [
        'mine = 3',  # like no key
        '_sizee = 3',
        'sizes = (3, 4)\nsize = sizes[:2]',
        'sizes = (3, 4)\nsize = "${sizes}"',
        'custom_imports = dict(imports=["json"])\nmodel = dict()\nresume = True',
    ],
)
def test_name_of_ones_own_may_stay(config, tmp_path, line):
    path = tmp_path / 'leaf.py'
    path.write_text(f"_base_ = ['config.py']\n{line}\n")
    load_config(str(path))


@pytest.mark.parametrize('key', ['batch_size', 'num_workers'])
@pytest.mark.parametrize('value', [-1, 2.5, True, None])
def test_number_that_no_loader_takes_is_refused(tmp_path, key, value):
    path = tmp_path / 'config.py'
    path.write_text(
        f'val_dataloader = dict(batch_size=2, num_workers=0)\nval_dataloader[{key!r}] = {value}\n'
    )
    with pytest.raises(ConfigError, match=rf'val_dataloader.{key} must be a whole number >= \d, got {value}'):
        load_config(str(path))


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ("test_dataloader = 'text'", "test_dataloader must be a dict or None, got 'text'"),
        ('test_dataloader = dict(sampler=2)', 'test_dataloader.sampler must be a dict or None, got 2'),
        ('test_dataloader = dict(dataset=[])', 'test_dataloader.dataset must be a dict, got \\[\\]'),
        ('env_cfg = None', 'env_cfg must be a dict, got None'),
        ('env_cfg = dict(dist_cfg=2)', 'env_cfg.dist_cfg must be a dict, got 2'),
        (
            "env_cfg = dict(dist_cfg=dict(start_minutes='5'))",
            "dist_cfg.start_minutes must be a number >= 0, got '5'",
        ),
        ('data_modes = dict(default=2)', 'data_modes.default must be a dict, got 2'),
        ('is_dev = 1', 'is_dev must be True or False, got 1'),
        ('compile = 1e30', r'compile must be True or False or a dict or None, got 1e\+30'),
        ("train_cfg = dict(max_epochs='3')", "train_cfg.max_epochs must be a whole number >= 1, got '3'"),
        (
            'randomness = dict(seed=-1)',
            'randomness.seed must be a whole number >= 0 and <= 4294967295 or None, got -1',
        ),
        ("log_level = 'LOUD'", "log_level must be 'DEBUG' or 'INFO' .*, got 'LOUD'"),
        ('compile = dict(modules=3)', 'compile.modules must be text or a list, got 3'),
        ("custom_hooks = ['EMAHook']", "custom_hooks.0 must be a dict, got 'EMAHook'"),
        ('default_hooks = dict(logger=True)', 'default_hooks.logger must be a dict or None, got True'),
        ('optim_wrapper = dict(optimizer=1)', 'optim_wrapper.optimizer must be a dict, got 1'),
    ],
)
def test_value_of_the_wrong_type_is_named(tmp_path, line, message):
    path = tmp_path / 'config.py'
    path.write_text(line)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_loader_follows_workers_and_batch_size(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(
        'train_dataloader = dict(batch_size=2, num_workers=4, persistent_workers=True, prefetch_factor=4,\n'
        "    sampler=dict(type='TrainSampler', batch_size=2))\n"
    )
    cfg = load_config(str(path), {'train_dataloader.batch_size': 5, 'train_dataloader.num_workers': 0})
    assert cfg.train_dataloader.sampler.batch_size == 5
    assert cfg.train_dataloader.persistent_workers is False
    assert 'prefetch_factor' not in cfg.train_dataloader


def test_arguments_of_a_loader_that_the_config_does_not_have_are_known():
    cfg = Config(dict(train_dataloader=dict(batch_size=4)))
    apply_overrides(cfg, {'train_dataloader.pin_memory': True})
    assert cfg.train_dataloader.pin_memory is True
    with pytest.raises(ConfigError, match='Did you mean pin_memory'):
        apply_overrides(cfg, {'train_dataloader.pin_memry': True})


def typed(*pairs: str) -> dict:
    """Overrides as a command line holds them."""
    parser = Parser('')
    add_override_flag(parser)
    return parser.parse_args(['--cfg-options', *pairs]).cfg_options


@pytest.mark.parametrize(
    ('text', 'present', 'value'),
    [
        ('[05]', None, [5]),
        ('[\'05\', "1"]', None, ['05', '1']),
        ("'7'", None, '7'),
        ("it's", None, "it's"),
        ('(1,x)', None, (1, 'x')),
        ('1e-3', None, 1e-3),
        ('[(1, 2), [a b, 3]]', None, [(1, 2), ['a b', 3]]),
        ('1,2', None, [1, 2]),
        ('(1,2),(3,4)', [0], [(1, 2), (3, 4)]),
        ('false', True, False),
        ('/data/with space é', 'dataset/', '/data/with space é'),
        (' a, b', 'dataset/', ' a, b'),
        ('2024', 'dataset/', '2024'),
        ("'05'", 'dataset/', '05'),
        ('None', 'torch', None),
        ('[a, b]', 'a', ['a', 'b']),
        ('3', '${other}', 3),
    ],
)
def test_value_is_read_by_the_type_of_what_it_replaces(text, present, value):
    cfg = Config(dict(key=present, other=1))
    apply_overrides(cfg, typed(f'key={text}'))
    assert cfg.key == value
    assert type(cfg.key) is type(value)


def test_text_from_python_is_taken_as_it_is():
    cfg = Config(dict(key=None))
    apply_overrides(cfg, {'key': '1,2'})
    assert cfg.key == '1,2'
    apply_overrides(cfg, {'key': OverrideText('1,2')})
    assert cfg.key == '1,2'  # it holds text now


def test_import_above_the_base_is_no_lazy_config(config, tmp_path):
    path = tmp_path / 'leaf.py'
    path.write_text("import os\n_base_ = ['config.py']\nsize = (os.cpu_count() * 0 + 3, 5)\n")
    assert tuple(load_config(path).work.size) == (3, 5)


def test_byte_order_mark_is_skipped(config, tmp_path):
    Path(config).write_text(CONFIG, encoding='utf-8-sig')
    path = tmp_path / 'leaf.py'
    path.write_text("_base_ = ['config.py']\nsize = (3, 5)  # é\n", encoding='utf-8-sig')
    assert tuple(load_config(path).work.size) == (3, 5)


def test_dict_over_none_says_how_to_replace_it(config, tmp_path):
    path = tmp_path / 'leaf.py'
    path.write_text("_base_ = ['config.py']\nloader = dict(split=dict(towns=['z']))\n")
    with pytest.raises(ConfigError, match=r'leaf.py: split is a dict .* split=dict\(_delete_=True'):
        load_config(path)
    path.write_text("_base_ = ['config.py']\nloader = dict(split=dict(_delete_=True, towns=['z']))\n")
    assert load_config(path).loader.split.towns == ['z']


@pytest.mark.parametrize('value', [0, -5, 2.5])
def test_max_iters_that_can_not_be_reached_is_refused(config, value):
    Path(config).write_text(f'{CONFIG}train_cfg = dict(max_epochs=1, max_iters=None)\n')
    assert load_config(config, {'train_cfg.max_iters': 3}).train_cfg.max_iters == 3
    with pytest.raises(ConfigError, match=f'max_iters must be a whole number >= 1 or None, got {value}'):
        load_config(config, {'train_cfg.max_iters': value})


@pytest.mark.parametrize('kind', ['LogerHook', 'NothingLikeAnyHook'])
def test_unregistered_part_hints_at_custom_imports(config, kind):
    cfg = load_config(config, {'custom_hooks': [dict(type=kind)]})
    with pytest.raises(ConfigError, match=f"no part is called '{kind}'.*custom_imports") as raised:
        check_parts(cfg)
    assert ('Did you mean LoggerHook' in str(raised.value)) == (kind == 'LogerHook')


@pytest.mark.parametrize('kind', ['abc', 'json', 'os.path', {'a': 1}, 2, ''])
def test_type_that_is_no_part_is_named(config, kind):
    with pytest.raises(ConfigError, match=r'custom_hooks.0.type: no part is called .*custom_imports'):
        check_parts(load_config(config, {'custom_hooks': [dict(type=kind)]}))


@pytest.mark.parametrize(
    ('part', 'message'),
    [
        (
            dict(type='AtomicCheckpointHook', interval_iters='abc'),
            "interval_iters must be a whole number >= 1 or None, got 'abc'",
        ),
        (dict(type='AtomicCheckpointHook', interval=2.5), 'interval must be a whole number >= 0, got 2.5'),
        (dict(type='AtomicCheckpointHook', interval_minutes=-1), 'interval_minutes must be a number >= 0 or'),
        (dict(type='SkippedSamplesHook', interval=0), 'interval must be a whole number >= 1, got 0'),
        (dict(type='WatchdogHook', minutes=1e30), 'minutes must be a number >= 0.001 and <= 1000000.0, got'),
        (dict(type='WatchdogHook', minutes=[]), r'minutes must be a number >= 0.001 .*, got \[\]'),
        (dict(type='LoggerHook', interval=float('nan')), 'interval must be a whole number, got nan'),
        (dict(type='PreemptionHook', signals=(2.0, 'SIGTERM')), r'signals.0 must be text, got 2.0'),
        (dict(type='PreemptionHook', signals='SIGTERM'), "signals must be a list, got 'SIGTERM'"),
    ],
)
def test_argument_that_contradicts_its_annotation_is_named(config, part, message):
    with pytest.raises(ConfigError, match=f'config .*: custom_hooks.0.{message}'):
        check_parts(load_config(config, {'custom_hooks': [part]}))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'randomness': dict(seed=2**32)}, 'randomness.seed must be a whole number >= 0 and <= 4294967295'),
        (
            {'train_dataloader.prefetch_factor': 0},
            'prefetch_factor must be a whole number >= 1 or None, got 0',
        ),
        ({'train_dataloader.timeout': -1}, 'timeout must be a number >= 0, got -1'),
    ],
)
def test_number_out_of_its_range_is_named(config, options, message):
    Path(config).write_text(f'{CONFIG}train_dataloader = dict(batch_size=1, dataset=dict())\n')
    with pytest.raises(ConfigError, match=message):
        load_config(config, options)


@pytest.mark.parametrize('layer', ['norm_cfg', 'conv_cfg', 'act_cfg', 'upsample_cfg'])
def test_layer_that_mmcv_does_not_have_is_named(config, layer):
    Path(config).write_text('model = dict()')
    part = dict(type='mmdet.ResNet', depth=18)
    check_parts(load_config(config, {'model': {**part, layer: dict(type='BN')}}))
    check_parts(load_config(config, {'model': {**part, layer: None}}))
    with pytest.raises(ConfigError, match=f"model.{layer}.type: no part is called 'BM'"):
        check_parts(load_config(config, {'model': {**part, layer: dict(type='BM')}}))


def test_path_given_where_a_config_has_none_keeps_its_blanks_and_commas(config):
    options = {'work_dir': OverrideText('runs/a b, c'), 'load_from': OverrideText('[old] x.pth')}
    assert load_config(config, options).work_dir == 'runs/a b, c'
    assert load_config(config, {'work_dir': OverrideText('None')}).work_dir is None


def test_classes_paths_and_functions_of_a_config_become_text(config):
    Path(config).write_text(
        'from pathlib import Path\nfrom torch.optim import AdamW\nfrom math import sqrt\n'
        f"{CONFIG}data_root = Path('some') / 'where'\n_parts = (AdamW, sqrt)\nclass Own: ...\n"
    )
    cfg = load_config(config)
    assert (cfg.data_root, cfg._parts) == ('some/where', ('torch.optim.adamw.AdamW', 'math.sqrt'))
    assert 'AdamW' not in cfg and 'Own' not in cfg
    assert "data_root = 'some/where'" in cfg.pretty_text


@pytest.mark.parametrize(
    ('value', 'message'),
    [
        ('object()', 'model.x is an object of class object'),
        ('lambda: 1', 'model.x is <lambda>, which only this file has.*custom_imports'),
    ],
)
def test_value_that_is_no_text_is_named(config, value, message):
    Path(config).write_text(f'model = dict(x={value})\n')
    with pytest.raises(ConfigError, match=message):
        load_config(config)


def test_modules_of_custom_imports(config, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'failing_parts.py').write_text('raise KeyError("own")')
    (tmp_path / 'importing_parts.py').write_text('import no_such_module')
    texts = {
        "dict(imports=['no_parts.heads'])": 'custom_imports names no_parts.heads, .*PYTHONPATH',
        "'no_parts'": 'custom_imports must be a dict',
        "dict(import_='no_parts')": "custom_imports has no key 'import_'",
    }
    for text, message in texts.items():
        Path(config).write_text(f'{CONFIG}custom_imports = {text}\n')
        with pytest.raises(ConfigError, match=message):
            load_config(config)
    # a user's own module keeps its traceback
    for name, error in (('failing_parts', KeyError), ('importing_parts', ModuleNotFoundError)):
        Path(config).write_text(f'{CONFIG}custom_imports = dict(imports={name!r})\n')
        with pytest.raises(error) as raised:
            load_config(config)
        assert raised.traceback[-1].path.name == f'{name}.py'
    Path(config).write_text(
        f"{CONFIG}custom_imports = dict(imports=['no_parts'], allow_failed_imports=True)\n"
    )
    load_config(config)


def test_the_text_is_formatted_once_until_the_config_changes(config, monkeypatch):
    calls = []
    monkeypatch.setattr(
        mmengine_config, 'FormatCode', lambda text, **style: (calls.append(text) or text, True)
    )
    cfg = load_config(config)
    text = cfg.pretty_text
    assert cfg.pretty_text == copy.deepcopy(cfg).pretty_text == text
    assert len(calls) == 1
    cfg.note_of_the_user = 'new'
    assert "note_of_the_user='new'" in cfg.pretty_text.replace(' ', '')
    assert len(calls) == 2
