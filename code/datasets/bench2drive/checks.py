"""Ten checks of what is known of Bench2Drive from its documentation, on real clips.

Nothing here was read from a clip by the authors of this package, so the first clip of a download should
pass these checks before anything is trained on it.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thinktwice.geometry import poses

from ..calibration import Calibration, CameraCalibration, load_calibration
from ..labels import decode_depth
from ..storage import DatasetStorage, RouteReader, SampleReadError, parse_npz
from ..storage.bench2drive import FRAMES_PER_STEP, NUM_ACTIONS, measurements_of, parse_annotation
from .clips import calibration_of, count_frames

KEYS = frozenset(
    (
        *('x', 'y', 'theta', 'speed', 'throttle', 'steer', 'brake', 'reverse'),
        *('x_command_near', 'y_command_near', 'command_near'),
        *('x_command_far', 'y_command_far', 'command_far', 'x_target', 'y_target', 'next_command'),
        *('should_brake', 'only_ap_brake', 'acceleration', 'angular_velocity', 'weather'),
        *('bounding_boxes', 'sensors'),
    )
)
# x, y, z in meters, yaw and horizontal field of view in degrees
CAMERAS = {
    'front': (0.80, 0.00, 1.60, 0, 70),
    'front_left': (0.27, -0.55, 1.60, -55, 70),
    'front_right': (0.27, 0.55, 1.60, 55, 70),
    'back': (-2.00, 0.00, 1.60, 180, 110),
    'back_left': (-0.32, -0.55, 1.60, -110, 70),
    'back_right': (-0.32, 0.55, 1.60, 110, 70),
}
_SMALL = (-0.5, -0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.5)
ACTIONS = np.array(
    [
        (0.0, 0.0, 1.0, 0.0),
        *((0.7, steer, 0.0, 0.0) for steer in _SMALL),
        *((0.3, steer, 0.0, 0.0) for steer in (-0.7, *_SMALL, 0.7)),
        *((0.0, steer, 0.0, 0.0) for steer in (-1.0, -0.6, -0.3, -0.1)),
        (1.0, 0.0, 0.0, 0.0),
        *((0.0, steer, 0.0, 0.0) for steer in (0.1, 0.3, 0.6, 1.0)),
        *((0.5, steer, 0.0, 1.0) for steer in _SMALL),
    ]
)
"""(39, 4) throttle, steer, brake, reverse of the expert's actions."""
EXPERT_LENGTH = 1538  # 1536 features, value, action
ROAD_IDS = (6, 7)  # road line and road, of CARLA 0.9.10
SKY_ID = 13
MAX_FRAMES = 20  # whose images and points are read

Finding = tuple[bool, str]


@dataclass(frozen=True)
class CheckResult:
    """Result of one check on one clip."""

    name: str
    passed: bool
    detail: str


class ClipCheck:
    """Reads one clip for the checks.

    Args:
        root: root of the dataset.
        clip: name of the clip.
        folder: folder of the clip, relative to the root.
    """

    def __init__(self, root: str, clip: str, folder: str) -> None:
        self._storage, self._clip, self._folder = DatasetStorage(root), clip, folder
        self._path = self._storage.location(folder)
        self.calibration: Calibration = load_calibration(self._storage)
        self.frames = _num_frames(self._path)
        self.annotations = [self._annotation(frame) for frame in range(self.frames)]

    def _annotation(self, frame: int) -> dict[str, Any]:
        relative = f'{self._folder}/anno/{frame:05d}.json.gz'
        values = parse_annotation(self._storage.read_bytes(relative), self._storage.location(relative))
        # the other boxes and most of the matrices would fill the memory
        values['bounding_boxes'] = values['bounding_boxes'][:1]
        if frame % MAX_FRAMES and 'sensors' in values:
            values['sensors'] = None
        return values

    def views(self) -> Iterator[tuple[RouteReader, int]]:
        """Readers and frames of a part of the clip, evenly spread."""
        chosen = np.unique(np.linspace(0, self.frames - 2, MAX_FRAMES).astype(int)).tolist()
        for frame in chosen:
            step, phase = divmod(frame, FRAMES_PER_STEP)
            yield self._storage.route(f'clip{phase}', self._clip), step

    def keys(self) -> Finding:
        """The 24 keys of an annotation."""
        different = {key for annotation in self.annotations for key in KEYS ^ annotation.keys()}
        return not different, f'different: {", ".join(sorted(different)) or "none"}'

    def pose(self) -> Finding:
        """The box of the ego is its pose, and the compass agrees."""
        offsets, turns = [], []
        for annotation in self.annotations:
            box = annotation['bounding_boxes'][0]
            world2ego = np.array(box['world2ego'], dtype=np.float64)
            offsets.append(np.abs(world2ego @ [*box['location'], 1.0] - [0, 0, 0, 1]).max())
            theta = np.float64('nan' if annotation['theta'] is None else annotation['theta'])
            turns.append(float(poses.wrap_angle(theta - np.pi / 2 - np.radians(box['rotation'][2]))))
        turn = max((abs(turn) for turn in turns if np.isfinite(turn)), default=0.0)
        return bool(max(offsets) < 0.01 and turn < 1e-3), (
            f'origin off by {max(offsets):.4f} m, compass by {turn:.5f} rad'
        )

    def rig(self) -> Finding:
        """Poses and lenses of the cameras are those of the documentation."""
        errors = []
        rigs = [calibration_of(annotation, self._path) for annotation in self.annotations[::MAX_FRAMES]]
        for camera in (camera for rig in rigs for camera in rig.cameras):
            x, y, z, yaw, fov = CAMERAS[camera.name]
            forward = camera.cam2ego[:3, 2]
            focal = rigs[0].image_size[1] / 2 / np.tan(np.radians(fov) / 2)
            errors.append(np.abs(camera.cam2ego[:3, 3] - (x, y, z)).max())
            errors.append(abs(poses.wrap_angle(np.arctan2(forward[1], forward[0]) - np.radians(yaw))))
            errors.append(abs(camera.intrinsics[0] / focal - 1))
        return bool(
            max(errors) < 1e-3
        ), f'largest difference {max(errors):.2g} (m, rad or relative focal length)'

    def ground(self) -> Finding:
        """Points ahead of the ego lie on the ground and, in the front image, on the road."""
        heights, on_road = [], []
        for reader, frame in self.views():
            points = reader.points(frame)[:, :3]
            ahead = points[(points[:, 0] > 4) & (points[:, 0] < 10) & (np.abs(points[:, 1]) < 1.5)]
            ahead = ahead[np.abs(ahead[:, 2]) < 0.5]
            camera, size = self.calibration.cameras[0], self.calibration.stored_size
            rows, columns, _ = project(camera, size, ahead)
            ids = reader.class_ids(camera.seg, frame, size)[rows, columns]
            heights.append(ahead[:, 2])
            on_road.append(np.isin(ids, ROAD_IDS))
        if not (seen := np.concatenate(on_road)).size:
            return False, 'no points 4 to 10 m ahead within 0.5 m of the ground'
        height, share = float(np.median(np.abs(np.concatenate(heights)))), float(seen.mean())
        return height < 0.1 and share > 0.8, f'median height {height:.3f} m, {share:.0%} on the road'

    def depth(self) -> Finding:
        """Points have the depth of the pixels that they are seen in."""
        medians = {}
        for camera in self.calibration.cameras:
            errors = []
            for reader, frame in self.views():
                size = self.calibration.stored_size
                rows, columns, depths = project(camera, size, reader.points(frame)[:, :3])
                label = decode_depth(reader.depth_code(camera.depth, frame, size))[rows, columns]
                errors.append(np.abs(label - depths)[label > 0])
            medians[camera.name] = float(np.median(np.concatenate(errors)))
        worst = max(medians, key=lambda name: medians[name])
        return medians[worst] < 0.5, f'median difference {medians[worst]:.2f} m in {worst}, the worst camera'

    def sky(self) -> Finding:
        """The upper rows of the images hold sky."""
        size = self.calibration.stored_size
        shares = [
            (reader.class_ids(camera.seg, frame, size)[: size[0] // 10] == SKY_ID).mean()
            for reader, frame in self.views()
            for camera in self.calibration.cameras
        ]
        share = float(np.mean(shares))
        return share > 0.02, f'{share:.0%} of the upper tenth'

    def expert_files(self) -> Finding:
        """One file for each frame from -1 to the last but one, with 1536 features, value and action."""
        names = sorted(os.listdir(f'{self._path}/expert_assessment'))
        expected = sorted(['-0001.npz', *(f'{frame:05d}.npz' for frame in range(self.frames - 1))])
        lengths, actions = set(), []
        for frame in range(self.frames - 1):
            vector = self._expert(frame)
            lengths.add(len(vector))
            actions.append(vector[-1])
        is_good = names == expected and lengths == {EXPERT_LENGTH}
        return is_good and set(actions) <= set(range(NUM_ACTIONS)), (
            f'{len(names)} files for {self.frames} frames, lengths {sorted(lengths)}, '
            f'actions {min(actions):g} to {max(actions):g}'
        )

    def _expert(self, frame: int) -> np.ndarray:
        relative = f'{self._folder}/expert_assessment/{frame:05d}.npz'
        return parse_npz(self._storage.read_bytes(relative), self._storage.location(relative))['arr_0']

    def speed(self) -> Finding:
        """The ego moves as fast as its speed says."""
        read = [measurements_of(annotation, self._path) for annotation in self.annotations]
        positions = np.array([(values['x'], values['y']) for values in read])
        speeds = np.abs([values['speed'] for values in read])
        seconds = 0.1 * FRAMES_PER_STEP
        moved = np.linalg.norm(positions[FRAMES_PER_STEP:] - positions[:-FRAMES_PER_STEP], axis=1) / seconds
        difference = float(
            np.median(np.abs(moved - (speeds[FRAMES_PER_STEP:] + speeds[:-FRAMES_PER_STEP]) / 2))
        )
        return difference < 0.3, f'median difference {difference:.2f} m/s'

    def actions(self) -> Finding:
        """The control of a frame is the action of the expert file before it."""
        same = []
        for frame in range(self.frames - 1):
            after = self.annotations[frame + 1]
            control = [float(after[key] or 0) for key in ('throttle', 'steer', 'brake', 'reverse')]
            same.append(np.allclose(ACTIONS[int(self._expert(frame)[-1])], control, atol=0.01))
        return bool(np.mean(same) > 0.95), f'equal in {np.mean(same):.0%} of {len(same)} frames'

    def flags(self) -> Finding:
        """How often the expert's hazard rule braked, and compass or speed are missing; any value passes."""
        values = {key: [one[key] for one in self.annotations] for key in ('theta', 'speed')}
        flags = ('should_brake', 'only_ap_brake')
        counts = {
            **{key: sum(bool(one[key]) for one in self.annotations) for key in flags},
            'no heading': sum(theta is None or theta != theta for theta in values['theta']),
            'no speed': values['speed'].count(None),
        }
        listed = ', '.join(f'{name} {count}' for name, count in counts.items())
        return True, f'of {self.frames} frames: {listed}'


def _num_frames(path: str) -> int:
    """Number of frames of a clip; one sample's interval at least.

    Raises:
        SampleReadError: There are fewer, or the folder can't be listed.
    """
    try:
        frames = count_frames(Path(path) / 'anno', '.json.gz')
    except OSError as error:
        raise SampleReadError(path, f'cannot be listed ({error})') from error
    if frames <= FRAMES_PER_STEP:
        raise SampleReadError(path, f'only {frames} frames')
    return frames


def project(
    camera: CameraCalibration, size: tuple[int, int], points: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and depths of points (P, 3) in the image of a camera, without those out of view."""
    seen = poses.transform_points(np.linalg.inv(camera.cam2ego), points)
    seen = seen[seen[:, 2] > 1.0]
    pixel = seen @ camera.intrinsic_matrix.T
    columns, rows = np.rint(pixel[:, :2] / pixel[:, 2:]).astype(int).T
    in_view = (rows >= 0) & (rows < size[0]) & (columns >= 0) & (columns < size[1])
    return rows[in_view], columns[in_view], seen[in_view, 2]


CHECKS: tuple[tuple[str, Callable[[ClipCheck], Finding]], ...] = (
    ('keys of anno', ClipCheck.keys),
    ('pose of the ego', ClipCheck.pose),
    ('poses of the cameras', ClipCheck.rig),
    ('points on the road', ClipCheck.ground),
    ('depth of points and images', ClipCheck.depth),
    ('sky', ClipCheck.sky),
    ('expert files', ClipCheck.expert_files),
    ('speed', ClipCheck.speed),
    ('actions of the expert', ClipCheck.actions),
    ('flags', ClipCheck.flags),
)


def check_clip(root: str, task: tuple[str, str]) -> list[CheckResult]:
    """Run all checks on a clip; what can't be read fails.

    Args:
        root: root of the dataset.
        task: name and folder of the clip.
    """
    try:
        clip = ClipCheck(root, *task)
    except SampleReadError as error:
        return [CheckResult(name, False, str(error)) for name, _ in CHECKS]
    results = []
    for name, check in CHECKS:
        try:
            passed, detail = check(clip)
        # an annotation may hold anything in place of a number or a matrix
        except (
            SampleReadError,
            OSError,
            KeyError,
            TypeError,
            ValueError,
            IndexError,
            OverflowError,
        ) as error:
            passed, detail = False, f'{type(error).__name__}: {error}'
        results.append(CheckResult(name, passed, f'{task[0]}: {detail}'))
    return results
