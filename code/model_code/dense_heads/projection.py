"""Ego points in the cameras' images."""

import torch
from torch import Tensor

MIN_DEPTH = 1e-5  # meters along the optical axis; nearer points and those behind count as unseen


def ego_to_image(intrinsics: Tensor, cam2ego: Tensor) -> Tensor:
    """Matrices from ego meters to (u d, v d, d, 1), d the depth in meters, u and v raw pixels.

    Args:
        intrinsics: (..., 3, 3) pinhole.
        cam2ego: (..., 4, 4) rigid.

    Returns:
        (..., 4, 4).
    """
    rotation = cam2ego[..., :3, :3].transpose(-1, -2)
    translation = _multiply(rotation, -cam2ego[..., :3, 3])
    ego2img = torch.zeros_like(cam2ego)
    # written as products and sums: a matrix product may run in reduced precision
    ego2img[..., :3, :3] = (intrinsics.unsqueeze(-1) * rotation.unsqueeze(-3)).sum(-2)
    ego2img[..., :3, 3] = _multiply(intrinsics, translation)
    ego2img[..., 3, 3] = 1
    return ego2img


def project_to_cameras(
    points: Tensor, ego2img: Tensor, ida_mats: Tensor, image_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Where ego points appear in each camera's image.

    Args:
        points: (B, Q, 3) ego meters.
        ego2img: (B, N, 4, 4), see :func:`ego_to_image`.
        ida_mats: (B, N, 4, 4) from (u, v, depth, 1), raw pixels, to the network's image.
        image_size: (H, W) of the network's image.

    Returns:
        Locations (B, N, Q, 2) as (u / W, v / H), and whether they are seen, bool (B, N, Q): in
        front of the camera and strictly inside the image.
    """
    homogeneous = torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)
    scaled = _multiply(ego2img.unsqueeze(2), homogeneous.unsqueeze(1))  # (B, N, Q, 4)
    depth = scaled[..., 2:3]
    raw = torch.cat([scaled[..., :2] / depth.clamp(min=MIN_DEPTH), depth, torch.ones_like(depth)], dim=-1)
    pixels = _multiply(ida_mats.unsqueeze(2), raw)[..., :2]
    H, W = image_size
    locations = pixels / pixels.new_tensor([W, H])
    visible = (depth[..., 0] > MIN_DEPTH) & ((locations > 0) & (locations < 1)).all(-1)
    return locations, visible


def _multiply(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrices (..., R, C) times vectors (..., C) in full precision."""
    return (matrix * vector.unsqueeze(-2)).sum(-1)
