"""A ComfyUI node: a portrait and speech through the policy of a run.

ComfyUI is not imported and need not be installed here. In its folder `custom_nodes`, a file with the one line
`from ft2ray.comfyui import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS` brings the node.

Shapes as ComfyUI has them: IMAGE [B, H, W, 3] and AUDIO waveform [B, channels, T], float32.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft2ray.play import Player, PlaySettings
from ft2ray.run import Run
from ft2ray.scratch import scratch_folder
from ft2ray.systems import TLPO

if TYPE_CHECKING:
    import torch

WEIGHT = ("FLOAT", {"default": 1.0, "min": 0.0, "max": 3.0, "step": 0.1})


class FT2RayAnimate:
    """Frames and sound of one clip; the weights are those of the default dimensions."""

    CATEGORY = "ft2ray"
    FUNCTION = "animate"
    RETURN_TYPES = ("IMAGE", "AUDIO", "FLOAT")
    RETURN_NAMES = ("frames", "sound", "fps")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802  # ComfyUI's name
        return {
            "required": {
                "portrait": ("IMAGE",),
                "speech": ("AUDIO",),
                "run": ("STRING", {"default": "runs/demo"}),
                "system": ("STRING", {"default": TLPO}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**31 - 1}),
                "steps": ("INT", {"default": 10, "min": 1, "max": 50}),
                "guidance": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 6.0, "step": 0.1}),
                "motion": ("FLOAT", {"default": 1.0, "min": 0.1, "max": 2.0, "step": 0.05}),
            },
            "optional": {"mn": WEIGHT, "ls": WEIGHT, "vq": WEIGHT},
        }

    def animate(
        self,
        portrait: torch.Tensor,
        speech: dict[str, Any],
        run: str,
        system: str,
        seed: int,
        steps: int,
        guidance: float,
        motion: float,
        **weights: float,
    ) -> tuple[torch.Tensor, dict[str, Any], float]:
        """What ComfyUI calls; an error's message is shown at the node."""
        import torch

        from ft2ray.media.video import FPS, read_video

        chosen = PlaySettings(
            systems=(system,), seed=seed, steps=steps, guidance=guidance, motion=motion, weights=weights
        )
        with scratch_folder() as folder:
            picture, sound, clip = (folder / name for name in ("portrait.png", "speech.wav", "clip.mp4"))
            _write_picture(picture, portrait)
            _write_sound(sound, speech)
            ((_, mp4),) = _player(run).play(str(picture), str(sound), chosen, lambda state, share: True)
            clip.write_bytes(mp4)
            frames_FHW3, _ = read_video(clip)
        return torch.from_numpy(frames_FHW3).float() / 255, speech, float(FPS)


@lru_cache(maxsize=1)
def _player(run: str) -> Player:
    return Player(Run.open(run))


def _write_picture(path: Path, image_BHW3: torch.Tensor) -> None:
    from PIL import Image

    Image.fromarray((image_BHW3[0].clamp(0, 1) * 255).round().byte().cpu().numpy()).save(path)


def _write_sound(path: Path, sound: dict[str, Any]) -> None:
    """16-bit WAV of the mean of all channels, at the rate that it has."""
    from scipy.io import wavfile

    wav_T = sound["waveform"][0].mean(dim=0).clamp(-1, 1)
    wavfile.write(path, int(sound["sample_rate"]), (wav_T * 32767).short().cpu().numpy())


NODE_CLASS_MAPPINGS = {"FT2RayAnimate": FT2RayAnimate}
NODE_DISPLAY_NAME_MAPPINGS = {"FT2RayAnimate": "Animate a portrait (ft2ray)"}
