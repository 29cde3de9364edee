"""Projection of points in the ego frame into the images."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

MIN_DEPTH = 1e-5  # meters along the optical axis; nearer points are not visible


def ego_to_image(
    intrinsics: Float[Tensor, '*batch 3 3'], cam2ego: Float[Tensor, '*batch 4 4']
) -> Float[Tensor, '*batch 4 4']:
    """Compute matrices from ego meters to (u d, v d, d, 1): depth d in meters, raw pixels u and v.

    Args:
        intrinsics: Pixels of the undistorted raw image.
        cam2ego: Rigid transform of the camera to the ego frame, meters.
    """
    rotation = cam2ego[..., :3, :3].transpose(-1, -2)
    translation = _multiply(rotation, -cam2ego[..., :3, 3])
    ego2img = torch.zeros_like(cam2ego)
    # products and sums, because a matrix product may run in reduced precision
    ego2img[..., :3, :3] = (intrinsics.unsqueeze(-1) * rotation.unsqueeze(-3)).sum(-2)
    ego2img[..., :3, 3] = _multiply(intrinsics, translation)
    ego2img[..., 3, 3].fill_(1)
    return ego2img


def project_to_cameras(
    points: Float[Tensor, 'B Q 3'],
    ego2img: Float[Tensor, 'B N 4 4'],
    ida_mats: Float[Tensor, 'B N 4 4'],
    image_size: tuple[int, int],
) -> tuple[Float[Tensor, 'B N Q 2'], Bool[Tensor, 'B N Q']]:
    """Project points into the image of each camera.

    Args:
        points: x, y, z in the ego frame, meters.
        ego2img: See :func:`ego_to_image`.
        ida_mats: (u, v, depth, 1) of the raw image to that of the network's image.
        image_size: H, W of the network's images, pixels.

    Returns:
        Locations u / W, v / H, and whether they are visible: in front of the camera and strictly
        inside the image.
    """
    homogeneous = torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)
    scaled = _multiply(ego2img.unsqueeze(2), homogeneous.unsqueeze(1))  # (B, N, Q, 4)
    depth = scaled[..., 2:3]
    raw = torch.cat([scaled[..., :2] / depth.clamp(min=MIN_DEPTH), depth, torch.ones_like(depth)], dim=-1)
    pixels = _multiply(ida_mats.unsqueeze(2), raw)[..., :2]
    H, W = image_size
    locations = torch.stack([pixels[..., 0] / W, pixels[..., 1] / H], dim=-1)
    visible = (depth[..., 0] > MIN_DEPTH) & ((locations > 0) & (locations < 1)).all(-1)
    return locations, visible


def _multiply(
    matrix: Float[Tensor, '*#batch rows columns'], vector: Float[Tensor, '*#batch columns']
) -> Float[Tensor, '*_ rows']:
    """Matrix-vector products in full precision."""
    return (matrix * vector.unsqueeze(-2)).sum(-1)
