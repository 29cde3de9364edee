"""The functions to call from Python: train and test, or a model, its data, predictions and agent."""

from thinktwice.apis.inference import draw_prediction, init_agent, init_dataset, init_model, predict
from thinktwice.apis.test import test
from thinktwice.apis.train import train
from thinktwice.core.visualization import draw_sample

__all__ = [
    'draw_prediction',
    'draw_sample',
    'init_agent',
    'init_dataset',
    'init_model',
    'predict',
    'test',
    'train',
]
