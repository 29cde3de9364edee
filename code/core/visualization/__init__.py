"""Drawing of samples and plans."""

from thinktwice.core.visualization.bev import BEVCanvas, draw_bev
from thinktwice.core.visualization.cameras import draw_cameras, project
from thinktwice.core.visualization.picture import draw_sample, save_picture

__all__ = ['BEVCanvas', 'draw_bev', 'draw_cameras', 'draw_sample', 'project', 'save_picture']
