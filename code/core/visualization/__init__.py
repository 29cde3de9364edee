"""Drawing of samples and plans."""

from thinktwice.core.visualization.backends import MLflowBackend, TensorboardBackend
from thinktwice.core.visualization.bev import BEVCanvas
from thinktwice.core.visualization.cameras import project
from thinktwice.core.visualization.looks import SamplingPoints, record_sampling_points
from thinktwice.core.visualization.movie import Movie
from thinktwice.core.visualization.picture import draw_sample, save_picture

__all__ = [
    'BEVCanvas',
    'MLflowBackend',
    'Movie',
    'SamplingPoints',
    'TensorboardBackend',
    'draw_sample',
    'project',
    'record_sampling_points',
    'save_picture',
]
