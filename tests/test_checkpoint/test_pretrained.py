"""Pretrained weights: from the folder, else the cache, else a download; errors say what to do."""

import hashlib
import os
import socket
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import torch
from mmengine.model import BaseModule
from mmengine.registry import DefaultScope
from mmengine.runner import CheckpointLoader

from thinktwice.checkpoint import pretrained
from thinktwice.errors import CheckpointError, ConfigError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Empty folder of weights and empty cache; mmengine's own loaders are restored."""
    monkeypatch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    (tmp_path / 'ckpt').mkdir()
    return tmp_path / 'ckpt'


@pytest.fixture
def web(tmp_path):
    """URL of a server and the folder that it serves."""
    shown = tmp_path / 'web'
    shown.mkdir()
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(SimpleHTTPRequestHandler, directory=str(shown)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}', shown
    server.shutdown()
    server.server_close()


def load(folder, checkpoint):
    model = {'encoder': [{'init_cfg': {'type': 'Pretrained', 'checkpoint': checkpoint}}]}
    pretrained.use_pretrained_folder(folder, model)
    return CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')['state_dict']


def save(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({'weight': torch.full((2,), float(value))}, path)
    return path


def named_by_hash(path):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    return path.rename(path.with_name(f'{path.stem}-{digest}.pth'))


def test_folder_wins_over_cache_and_cache_over_the_web(folder, web):
    address, shown = web
    cached, own = folder.parent / 'hub' / 'checkpoints' / 'net.pth', folder / 'net.pth'
    for path, value in ((shown / 'net.pth', 1), (cached, 2), (own, 3)):
        save(path, value)
    for path, value in ((own, 3), (cached, 2), (None, 1)):
        assert load(folder, f'{address}/net.pth')['weight'][0] == value
        if path is not None:
            path.unlink()


def test_torchvision_weights_are_found_under_the_name_they_have_on_the_web(folder):
    save(folder / 'resnet50-0676ba61.pth', 5)
    assert load(folder, 'torchvision://resnet50')['weight'][0] == 5


def test_unknown_torchvision_weights(folder):
    with pytest.raises(ConfigError, match=r"model.encoder.0.init_cfg: .*no weights named 'resnet51'"):
        load(folder, 'torchvision://resnet51')


def test_download_is_checked_against_the_hash_in_its_name(folder, web):
    address, shown = web
    right = named_by_hash(save(shown / 'net.pth', 7))
    assert load(folder, f'{address}/{right.name}')['weight'][0] == 7
    save(shown / 'net-0123abcd.pth', 8)
    with pytest.raises(ConfigError, match='invalid hash'):
        load(folder, f'{address}/net-0123abcd.pth')
    assert [path.name for path in (folder.parent / 'hub' / 'checkpoints').iterdir()] == [right.name]


def test_unreachable_weights_name_the_key_the_file_and_two_remedies(folder):
    with socket.socket() as closed:  # bound, but not listening
        closed.bind(('127.0.0.1', 0))
        url = f'http://127.0.0.1:{closed.getsockname()[1]}/net.pth'
        with pytest.raises(ConfigError, match='Connection refused') as caught:
            load(folder, url)
    message = str(caught.value)
    assert message.startswith('model.encoder.0.init_cfg: net.pth is neither in')
    assert f'Put {url} into {folder}' in message
    assert message.endswith('--cfg-options model.encoder.0.init_cfg=None')


def test_server_that_does_not_answer_times_out(folder, monkeypatch):
    monkeypatch.setattr(pretrained, 'TIMEOUT_SECONDS', 0.2)
    with socket.create_server(('127.0.0.1', 0)) as silent, pytest.raises(ConfigError, match='timed out'):
        load(folder, f'http://127.0.0.1:{silent.getsockname()[1]}/net.pth')
    assert socket.getdefaulttimeout() is None


def test_weights_that_hold_code_are_refused(folder):
    class Code:
        def __reduce__(self):
            return os.mkdir, (str(folder / 'ran'),)

    torch.save({'weight': Code()}, folder / 'net.pth')
    with pytest.raises(CheckpointError, match='more than weights'):
        load(folder, str(folder / 'net.pth'))
    assert not (folder / 'ran').exists()


def test_missing_file(folder):
    with pytest.raises(FileNotFoundError, match=r'model.encoder.0.init_cfg: .*net.pth does not exist'):
        load(folder, str(folder / 'net.pth'))


def test_a_registered_part_is_initialized_from_the_folder(folder):
    class Part(BaseModule):
        def __init__(self, init_cfg):
            super().__init__(init_cfg)
            self.weight = torch.nn.Parameter(torch.zeros(2))

    checkpoint = str(save(folder / 'part.pth', 4))
    part = Part({'type': 'Pretrained', 'checkpoint': checkpoint})
    pretrained.use_pretrained_folder(folder, {})
    with DefaultScope.overwrite_default_scope('thinktwice'):
        part.init_weights()
    assert part.weight.tolist() == [4, 4]
