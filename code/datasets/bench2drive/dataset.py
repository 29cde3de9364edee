"""Dataset of clips of Bench2Drive."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from thinktwice.registry import DATASETS

from ..carla_dataset import CarlaDataset
from ..metadata import DatasetMetadata
from ..splits import SplitSpec
from .clips import checked_phases


@DATASETS.register_module()
class Bench2DriveDataset(CarlaDataset):
    """Samples of clips of Bench2Drive, as downloaded or packed; see ``docs/bench2drive.md``.

    `tools/generate_metadata.py` lists the clips. Frames of a sample are 0.5 s apart, and the clips are
    recorded at 10 Hz: phase p has the frames p, p + 5, p + 10, ... of each clip as key frames.

    Args:
        data_root: folder of the clips.
        pipeline: see `CarlaDataset`.
        split: see `CarlaDataset`; the indices of a town are ``train`` and ``val``.
        phases: phases to use, of 0 to 4; all of them give five times the samples.
        options: further arguments of `CarlaDataset`.

    Raises:
        ConfigError: if a phase is not 0 to 4, or laspy is not installed; see `CarlaDataset` for others.
    """

    def __init__(
        self,
        data_root: str,
        pipeline: Sequence[Any],
        split: SplitSpec | Mapping[str, Any] | None = None,
        phases: Sequence[int] = (0,),
        **options: Any,
    ) -> None:
        self.phases = checked_phases(phases)
        if isinstance(split, Mapping):
            split = SplitSpec(**split)
        if split is not None:
            indices = [f'{index}{phase}' for index in split.indices for phase in self.phases]
            split = replace(split, indices=indices)
        super().__init__(data_root, pipeline, split, **options)

    def load_metadata(self) -> DatasetMetadata:
        """Metadata of the dataset, reduced to the phases in use."""
        towns = super().load_metadata().towns
        endings = tuple(map(str, self.phases))
        return DatasetMetadata({town: towns[town] for town in towns if town.endswith(endings)})
