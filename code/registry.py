"""Registries of the framework: children of mmengine's, scope ``thinktwice``.

A config names our parts without a prefix (``default_scope = 'thinktwice'``) and
any part of another OpenMMLab project with one (``mmdet.ResNet``,
``mmdet3d.SECOND``). The modules in ``locations`` are imported at the first lookup
in a registry, so importing this file is cheap.
"""

import re
from collections.abc import Iterator
from typing import Any

from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import FUNCTIONS as MMENGINE_FUNCTIONS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import LOG_PROCESSORS as MMENGINE_LOG_PROCESSORS
from mmengine.registry import LOOPS as MMENGINE_LOOPS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import OPTIMIZERS as MMENGINE_OPTIMIZERS
from mmengine.registry import PARAM_SCHEDULERS as MMENGINE_PARAM_SCHEDULERS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import VISBACKENDS as MMENGINE_VISBACKENDS
from mmengine.registry import VISUALIZERS as MMENGINE_VISUALIZERS
from mmengine.registry import WEIGHT_INITIALIZERS as MMENGINE_WEIGHT_INITIALIZERS
from mmengine.registry import Registry

from thinktwice.errors import ConfigError

SCOPE = 'thinktwice'
REFERENCE = re.compile(r'^\$\{([\w.]+)\}$')
"""A value of a config that stands for the value of another key; see ``thinktwice.config.references``."""


def find_references(node: Any) -> Iterator[str]:
    """Yield the dotted keys that the references anywhere inside a value of a config name."""
    if isinstance(node, str):
        if match := REFERENCE.match(node):
            yield match.group(1)
    elif isinstance(node, (dict, list, tuple)):
        for value in node.values() if isinstance(node, dict) else node:
            yield from find_references(value)


def _child(name: str, parent: Registry, *locations: str) -> Registry:
    def build(cfg: Any, *args: Any, registry: Registry, **kwargs: Any) -> Any:
        if (key := next(find_references(cfg), None)) is not None:
            raise ConfigError(
                f'this {name} holds the unresolved reference ${{{key}}}: read its config with '
                'thinktwice.config.load.load_config(path) instead of Config.fromfile(path), or build '
                'the whole model with thinktwice.apis.init_model(path)'
            )
        return parent.build_func(cfg, *args, registry=registry, **kwargs)

    return Registry(name, build_func=build, parent=parent, scope=SCOPE, locations=list(locations))


MODELS = _child(
    'model',
    MMENGINE_MODELS,
    'thinktwice.model_code',
    'thinktwice.encoder_decoder_framework',
    'thinktwice.release_2023.model',
)
DATASETS = _child('dataset', MMENGINE_DATASETS, 'thinktwice.datasets')
TRANSFORMS = _child(
    'transform', MMENGINE_TRANSFORMS, 'thinktwice.datasets.pipelines', 'thinktwice.release_2023.data'
)
DATA_SAMPLERS = _child('data sampler', MMENGINE_DATA_SAMPLERS, 'thinktwice.datasets.samplers')
FUNCTIONS = _child('function', MMENGINE_FUNCTIONS, 'thinktwice.datasets')
METRICS = _child('metric', MMENGINE_METRICS, 'thinktwice.core.evaluation')
HOOKS = _child('hook', MMENGINE_HOOKS, 'thinktwice.core.hooks')
LOG_PROCESSORS = _child('log processor', MMENGINE_LOG_PROCESSORS, 'thinktwice.core.hooks')
LOOPS = _child('loop', MMENGINE_LOOPS, 'thinktwice.core')
OPTIM_WRAPPERS = _child('optimizer wrapper', MMENGINE_OPTIM_WRAPPERS, 'thinktwice.core')
VISUALIZERS = _child('visualizer', MMENGINE_VISUALIZERS, 'thinktwice.core.visualization')
VISBACKENDS = _child('vis backend', MMENGINE_VISBACKENDS, 'thinktwice.core.visualization')
# Empty; without them mmengine warns that it falls back to its own.
OPTIMIZERS = _child('optimizer', MMENGINE_OPTIMIZERS)
OPTIM_WRAPPER_CONSTRUCTORS = _child('optimizer wrapper constructor', MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS)
PARAM_SCHEDULERS = _child('parameter scheduler', MMENGINE_PARAM_SCHEDULERS)
WEIGHT_INITIALIZERS = _child('weight initializer', MMENGINE_WEIGHT_INITIALIZERS)
