"""Bench2Drive: finding its clips, the dataset, and checks of what is known of its sensors."""

from .dataset import Bench2DriveDataset

__all__ = ['Bench2DriveDataset']
