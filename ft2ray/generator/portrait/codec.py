"""The codec of the packaged generator: between video and face motion, the latent that it denoises.

Shape suffixes: C latent channels, F frames, H W latent or picture size, 3 rgb, P mesh points.
"""

import numpy as np
import torch

from ft2ray.errors import MediaError, NonFiniteError
from ft2ray.generator.portrait.motion import MotionBasis
from ft2ray.generator.portrait.warp import render
from ft2ray.media.face import FaceMesher
from ft2ray.media.portrait import Portrait

MAX_LOST_SHARE = 0.1
"""A clip in which more frames than this show no face cannot be encoded."""


class PortraitCodec:
    """Latent frame = whitened face motion (H = W = 1), decoded by warping the portrait photo.

    Channels are [mouth | upper face | head pose], see `ft2ray.generator.portrait.motion`.
    """

    def __init__(self, basis: MotionBasis | None = None) -> None:
        self.basis = basis or MotionBasis.load()
        self.channels = self.basis.channels
        self._mesher: FaceMesher | None = None

    def latent_shape(self, frames: int) -> tuple[int, int, int, int]:
        """(C, F, H, W) of the latent of a clip with so many video frames."""
        return self.channels, frames, 1, 1

    def encode_video(self, frames_FHW3: np.ndarray) -> torch.Tensor:
        """Track the face in uint8 RGB frames and describe its motion: x_CFHW float32.

        Raises:
            MediaError: no_face, when the face is missing in too many frames; a few gaps are interpolated.
        """
        self._mesher = self._mesher or FaceMesher()  # only encoding needs it, and it is not picklable
        mesh_FP3 = bridge_gaps(self._mesher.track(frames_FHW3))
        return torch.from_numpy(self.basis.encode(mesh_FP3))[:, :, None, None]

    def decode(self, portrait: Portrait, x_CFHW: torch.Tensor) -> np.ndarray:
        """Latent -> uint8 RGB frames of this portrait."""
        return render(portrait, self.decode_mesh(portrait, x_CFHW))

    def decode_mesh(self, portrait: Portrait, x_CFHW: torch.Tensor) -> np.ndarray:
        """The meshes mesh_FP3 that `decode` renders, in the portrait's pixels."""
        if x_CFHW.ndim != 4 or x_CFHW.shape[0] != self.channels or x_CFHW.shape[2:] != (1, 1):
            raise ValueError(
                f"expected a latent of shape ({self.channels}, F, 1, 1), got {tuple(x_CFHW.shape)}; "
                "was it made by another codec?"
            )
        x_CF = x_CFHW.detach().to("cpu", torch.float32).numpy()[:, :, 0, 0]
        if not np.isfinite(x_CF).all():
            raise NonFiniteError(
                "the latent holds NaN or infinite values; the sampler diverged, lower its guidance."
            )
        return self.basis.decode(x_CF, portrait.mesh_P3)

    def lip_mask(self, x_CFHW: torch.Tensor) -> torch.Tensor:
        """float32 [C, F, 1, 1], 1 in the mouth's channels, else 0."""
        mask_CFHW = torch.zeros_like(x_CFHW, dtype=torch.float32)
        mask_CFHW[self.basis.mouth] = 1.0
        return mask_CFHW


def bridge_gaps(mesh_FP3: np.ndarray, max_lost_share: float = MAX_LOST_SHARE) -> np.ndarray:
    """Interpolate frames in which the face was not found (NaN); the ends repeat the nearest frame.

    Raises:
        MediaError: no_face, when more than `max_lost_share` of the frames, or all, are missing.
    """
    found_F = np.isfinite(mesh_FP3).all(axis=(1, 2))
    if not found_F.any() or 1.0 - found_F.mean() > max_lost_share:
        raise MediaError(
            "no_face",
            f"a face was found in {found_F.sum()} of {len(found_F)} frames; "
            "use a clip that shows one face throughout.",
        )
    if found_F.all():
        return mesh_FP3
    flat = mesh_FP3[found_F].reshape(found_F.sum(), -1)
    place_F = np.interp(np.arange(len(mesh_FP3)), np.flatnonzero(found_F), np.arange(len(flat)))
    low_F = np.floor(place_F).astype(int)
    share_F = (place_F - low_F)[:, None].astype(np.float32)
    bridged = flat[low_F] * (1 - share_F) + flat[np.minimum(low_F + 1, len(flat) - 1)] * share_F
    return bridged.reshape(mesh_FP3.shape).astype(np.float32)
