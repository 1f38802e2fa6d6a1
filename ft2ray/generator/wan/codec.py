"""Codec of Wan: AutoencoderKLWan latents, four video frames and 8 x 8 pixels (at full size) per latent value.

Shape suffixes: B batch, C latent channels, F latent frames, V video frames, H W latent or picture size, 3
rgb, P mesh points.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as nnf
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

from ft2ray.generator.portrait.codec import bridge_gaps
from ft2ray.media.face import LIPS_OUTER, FaceMesher

LIP_MARGIN = 0.15
"""The lip mask is grown by this share of the mouth's width: skin beside the lips moves with them."""


class WanCodec:
    """Diffusers' causal video autoencoder, normalised as in Wan: (z - mean) / std.

    Args:
        vae: the autoencoder.
        size: side of the square video in pixels, a multiple of its factor.
    """

    def __init__(self, vae: AutoencoderKLWan, size: int) -> None:
        self.vae = vae.eval().requires_grad_(False)
        self.channels = int(vae.config["z_dim"])
        self.time_factor = int(vae.config["scale_factor_temporal"])
        self.space_factor = int(vae.config["scale_factor_spatial"])
        if size % self.space_factor:
            raise ValueError(f"wan codec: size {size} is not a multiple of {self.space_factor} pixels")
        self.size = size
        self._mean_C = torch.tensor(vae.config["latents_mean"])[None, :, None, None, None]
        self._std_C = torch.tensor(vae.config["latents_std"])[None, :, None, None, None]
        self._mesher: FaceMesher | None = None

    def latent_shape(self, frames: int) -> tuple[int, int, int, int]:
        """(C, F, H, W) for so many video frames: the first one alone, then `time_factor` per latent frame.

        Raises ValueError where the frames do not fill the last latent frame.
        """
        if frames < 1 or (frames - 1) % self.time_factor:
            raise ValueError(f"wan codec: {frames} frames; use {self.time_factor} * n + 1")
        side = self.size // self.space_factor
        return self.channels, 1 + (frames - 1) // self.time_factor, side, side

    @torch.no_grad()
    def encode_video(self, frames_FHW3: np.ndarray) -> torch.Tensor:
        """uint8 RGB frames [V, size, size, 3] -> x_CFHW float32, the mode of the posterior, normalised."""
        expected = (self.size, self.size, 3)
        if frames_FHW3.shape[1:] != expected:
            raise ValueError(f"wan codec: frames must be {expected} each, got {frames_FHW3.shape[1:]}")
        self.latent_shape(len(frames_FHW3))
        video_B3VHW = torch.from_numpy(frames_FHW3).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        return self._encode(video_B3VHW)

    @torch.no_grad()
    def first_frame_condition(self, image_HW3: np.ndarray, frames: int) -> torch.Tensor:
        """What an image-to-video Wan gets behind its noise: [time_factor + C, F, H, W], float32.

        First the mask, 1 in the latent frame of the given picture and one channel for each of its video
        frames; then the latent of a video of so many frames that shows the picture and then nothing (grey).
        """
        expected = (self.size, self.size, 3)
        if image_HW3.shape != expected:
            raise ValueError(f"wan codec: the picture must be {expected}, got {image_HW3.shape}")
        _, latent_frames, height, width = self.latent_shape(frames)
        video_B3VHW = torch.zeros(1, 3, frames, self.size, self.size)
        video_B3VHW[0, :, 0] = torch.from_numpy(image_HW3).permute(2, 0, 1).float() / 127.5 - 1
        mask_MFHW = torch.zeros(self.time_factor, latent_frames, height, width)
        mask_MFHW[:, 0] = 1.0
        return torch.cat([mask_MFHW, self._encode(video_B3VHW)])

    def _encode(self, video_B3VHW: torch.Tensor) -> torch.Tensor:
        moments = self.vae.encode(video_B3VHW.to(self.vae.device, self.vae.dtype))
        return ((moments.latent_dist.mode().float().cpu() - self._mean_C) / self._std_C)[0]

    @torch.no_grad()
    def decode_frames(self, x_CFHW: torch.Tensor) -> np.ndarray:
        """Latent -> uint8 RGB frames [V, size, size, 3]."""
        z_BCFHW = x_CFHW[None].float().cpu() * self._std_C + self._mean_C
        video_B3VHW = self.vae.decode(z_BCFHW.to(self.vae.device, self.vae.dtype)).sample
        pixels_B3VHW = ((video_B3VHW.float().cpu().clamp(-1, 1) + 1) * 127.5).round()
        return pixels_B3VHW[0].permute(1, 2, 3, 0).to(torch.uint8).numpy()

    def lip_mask(self, x_CFHW: torch.Tensor) -> torch.Tensor:
        """Mask [1, F, H, W] of the lips found in the decoded video, trilinear on the latent grid, one for all
        channels.

        Raises MediaError (no_face) where the decoded video shows no face.
        """
        self._mesher = self._mesher or FaceMesher()
        frames_FHW3 = self.decode_frames(x_CFHW)
        mesh_FP3 = bridge_gaps(self._mesher.track(frames_FHW3))
        _, frames, height, width = x_CFHW.shape
        return to_latent_grid(lip_pixels(mesh_FP3, self.size), (frames, height, width))[None]


def lip_pixels(mesh_FP3: np.ndarray, size: int) -> np.ndarray:
    """Filled outer lips with a margin, float32 [V, size, size] of 0 and 1."""
    mask_VHW = np.zeros((len(mesh_FP3), size, size), np.float32)
    for mask_HW, mesh_P3 in zip(mask_VHW, mesh_FP3, strict=True):
        lips_P2 = mesh_P3[list(LIPS_OUTER), :2]
        cv2.fillPoly(mask_HW, [np.round(lips_P2).astype(np.int32)], 1.0)
        grow = max(1, round(LIP_MARGIN * float(np.ptp(lips_P2[:, 0]))))
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * grow + 1, 2 * grow + 1))
        cv2.dilate(mask_HW, kernel, dst=mask_HW)
    return mask_VHW


def to_latent_grid(mask_VHW: np.ndarray, grid: tuple[int, int, int]) -> torch.Tensor:
    """Trilinear resampling of a video mask to [F, H, W] of the latent, as in FantasyTalking (paper, 3.3)."""
    mask_11VHW = torch.from_numpy(mask_VHW)[None, None]
    return nnf.interpolate(mask_11VHW, size=grid, mode="trilinear", align_corners=False)[0, 0]
