"""The generator at full scale: Wan 2.1 with FantasyTalking's speech, as a `Generator`.

A folder with a config.json of `WanSettings` names the weights, which stay where they are:

    {"codec": "wan",
     "pipeline": "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers",
     "audio": "acvlab/FantasyTalking/fantasytalking_model.ckpt",
     "speech": "facebook/wav2vec2-base-960h"}

Each is a path (absolute, or from this folder on) or a name on the Hugging Face hub.

Shape suffixes: C latent channels, F frames, H W latent grid or picture, L tokens, D token width, T audio
samples, 3 rgb.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from PIL import Image

from ft2ray.errors import MediaError, WeightsError
from ft2ray.generator.base import Generator
from ft2ray.generator.checkpoint import CONFIG_FILE, from_fantasytalking, read_audio_weights, read_config
from ft2ray.generator.sampler import Conditions, OnStep, sample
from ft2ray.generator.settings import SamplerSettings
from ft2ray.generator.transformer import AudioWanTransformer, SpeechWanTransformer
from ft2ray.generator.wan.added_audio import AddedAudioTransformer
from ft2ray.generator.wan.codec import WanCodec
from ft2ray.generator.wan.encoders import PictureEncoder, Wav2Vec2Features, encode_texts, pad_text
from ft2ray.generator.wan.folder import PARTS, check_pipeline, load_backbone, load_part
from ft2ray.media.audio import SAMPLE_RATE
from ft2ray.media.portrait import Portrait
from ft2ray.weights import content_digest, find

BACKBONES: dict[str, type[SpeechWanTransformer]] = {
    "attention": AudioWanTransformer,
    "added": AddedAudioTransformer,
}


@dataclass(frozen=True)
class WanSettings:
    """config.json of a Wan generator.

    pipeline, audio, speech: where the weights are, see above. conditioning: how speech gets into Wan,
    "attention" (FantasyTalking) or "added" (in the manner of OmniAvatar). audio_dim: width of the projected
    speech. frames, fps, size: the clip that the model was trained for, `size` being the side of the square
    video. prompt, negative_prompt: the same for every clip. dtype: of the transformer and the text encoder.
    """

    pipeline: str
    audio: str
    speech: str = "facebook/wav2vec2-base-960h"
    conditioning: str = "attention"
    audio_dim: int = 2048
    frames: int = 81
    fps: float = 23
    size: int = 512
    prompt: str = "A person is talking."
    negative_prompt: str = ""
    dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        if self.conditioning not in BACKBONES:
            raise WeightsError(f"wan: conditioning must be attention or added, got {self.conditioning!r}")
        if self.dtype not in ("bfloat16", "float16", "float32"):
            raise WeightsError(f"wan: dtype must be bfloat16, float16 or float32, got {self.dtype!r}")
        if self.frames < 5 or self.fps <= 0:
            raise WeightsError(f"wan: needs frames >= 5 and fps > 0, got {self.frames} and {self.fps}")

    @classmethod
    def read(cls, folder: Path) -> WanSettings:
        """Settings of a generator folder; ValueError for unknown or missing keys and wrong types."""
        values = read_config(folder)
        where = f"generator: {folder / CONFIG_FILE}"
        if values.pop("codec") != "wan":
            raise WeightsError(f"{where} is not a Wan generator; it needs codec wan")
        kinds = {f.name: (int, float) if f.type == "float" else {"int": int, "str": str}[str(f.type)]
                 for f in dataclasses.fields(cls)}  # fmt: skip
        for key, value in values.items():
            if key not in kinds:
                near = difflib.get_close_matches(key, kinds, n=1)
                raise WeightsError(f"{where} has an unknown key {key}; known: {', '.join(near or kinds)}")
            if not isinstance(value, kinds[key]) or isinstance(value, bool):
                raise WeightsError(f"{where}: {key} cannot be {value!r}")
        missing = {"pipeline", "audio"} - set(values)
        if missing:
            raise WeightsError(f"{where} lacks {', '.join(sorted(missing))}")
        return cls(**values)

    def locate(self, folder: Path) -> tuple[Path, Path, Path]:
        """Where pipeline, audio weights and speech encoder lie; downloads those that are named by the hub."""
        wanted = ["model_index.json", *(f"{part}/*" for part in PARTS)]
        pipeline = find(self.pipeline, folder, "pipeline", wanted)
        check_pipeline(pipeline)
        audio = find(self.audio, folder, "audio")
        return pipeline, audio, find(self.speech, folder, "speech", ["*.json", "*.safetensors"])


class WanGenerator(Generator):
    """`Generator` on Wan: the portrait is the first frame and CLIP tokens, the text is fixed.

    A text-to-video base (1.3 B) has neither, so there the portrait is not seen.
    Recordings longer than `frames` are sampled in overlapping windows, of which only the first begins with
    the portrait.
    """

    def __init__(
        self,
        transformer: SpeechWanTransformer,
        codec: WanCodec,
        speech: Wav2Vec2Features,
        picture: PictureEncoder | None,
        text_LD: torch.Tensor,
        null_text_LD: torch.Tensor,
        settings: WanSettings,
        fingerprint: str,
    ) -> None:
        config = transformer.config
        stacked = config["in_channels"] - codec.channels
        problems = [
            (config["out_channels"] != codec.channels, "out_channels", "the VAE's", codec.channels),
            (stacked not in (0, codec.time_factor + codec.channels), "in_channels", "one of",
             (codec.channels, 2 * codec.channels + codec.time_factor)),
            (config["text_dim"] != text_LD.shape[1], "text_dim", "the text encoder's", text_LD.shape[1]),
            (config["image_dim"] != (picture and picture.width), "image_dim", "the image encoder's",
             picture and picture.width),
            (config["audio_stride"] != codec.time_factor, "audio_stride", "the VAE's", codec.time_factor),
        ]  # fmt: skip
        for wrong, name, whose, wanted in problems:
            if wrong:
                raise WeightsError(f"wan: {name} of the transformer is {config[name]}, not {whose} {wanted}")
        self.transformer = transformer.eval().requires_grad_(False)
        self.codec, self.settings, self.fps = codec, settings, settings.fps
        self.fingerprint = fingerprint
        self._speech, self._picture = speech, picture
        self._text_LD, self._null_text_LD = text_LD, null_text_LD
        self._has_first_frame = stacked > 0

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str | None = None) -> WanGenerator:
        """A folder as above, on the GPU where there is one.

        Raises ValueError, naming the file and the key, for anything that does not fit.
        """
        folder = Path(path)
        settings = WanSettings.read(folder)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = getattr(torch, settings.dtype)
        pipeline, audio_file, speech_folder = settings.locate(folder)
        audio = read_audio_weights(audio_file)
        kind = BACKBONES[settings.conditioning]
        if kind is AudioWanTransformer:
            audio = from_fantasytalking(audio)
        vae = load_part(AutoencoderKLWan, pipeline / "vae", torch_dtype=torch.float32).to(device)
        codec = WanCodec(vae, settings.size)
        codec.latent_shape(settings.frames)  # a clip that cannot be is refused before the large parts
        speech = Wav2Vec2Features(speech_folder, device)
        arguments = {"audio_features": speech.width, "audio_dim": settings.audio_dim}
        transformer = load_backbone(kind, pipeline / "transformer", arguments, audio, dtype, device)
        picture = PictureEncoder(pipeline, device) if transformer.config["image_dim"] else None
        text_LD, null_LD = encode_texts(pipeline, (settings.prompt, settings.negative_prompt), dtype, device)
        fingerprint = cls.fingerprint_of(folder)
        return cls(transformer, codec, speech, picture, text_LD, null_LD, settings, fingerprint)

    @classmethod
    def fingerprint_of(cls, path: str | Path) -> str:
        """The fingerprint of `load(path)` from the files alone: settings and contents, wherever these lie."""
        folder = Path(path)
        settings = WanSettings.read(folder)
        pipeline, audio_file, speech_folder = settings.locate(folder)
        parts = [pipeline / part for part in PARTS if (pipeline / part).is_dir()]
        contents = [content_digest(place) for place in (*parts, audio_file, speech_folder)]
        values = dataclasses.asdict(settings)
        for place in ("pipeline", "audio", "speech"):
            del values[place]
        return hashlib.sha256(json.dumps([values, contents], sort_keys=True).encode()).hexdigest()[:16]

    def video_frames(self, samples: int) -> int:
        """Most video frames that so much sound fills: 4 n + 1. ValueError for less than two latent frames."""
        stride = self.codec.time_factor
        shown = int(samples / SAMPLE_RATE * self.fps + 1e-6)
        frames = (shown - 1) // stride * stride + 1
        if frames <= stride:
            raise MediaError(
                "too_short", f"speech: {samples} samples are less than {stride + 1} frames at {self.fps} fps."
            )
        return frames

    def encode_prompt(self, portrait: Portrait, wav_T: np.ndarray) -> Conditions:
        """Conditions of one clip: as many whole latent frames as the speech fills."""
        frames = self.video_frames(len(wav_T))
        side = self.settings.size
        picture = Image.fromarray(portrait.image_HW3).resize((side, side), Image.Resampling.LANCZOS)
        image_HW3 = np.array(picture)
        stacked = self.codec.first_frame_condition(image_HW3, frames) if self._has_first_frame else None
        return Conditions(
            text_LD=self._text_LD,
            null_text_LD=self._null_text_LD,
            audio_LD=self._speech(wav_T[: round(frames / self.fps * SAMPLE_RATE)]),
            frames=self.codec.latent_shape(frames)[1],
            image_LD=None if self._picture is None else self._picture(image_HW3),
            latent_CFHW=stacked,
        )

    def sample(
        self, cond: Conditions, seed: int, config: SamplerSettings, on_step: OnStep | None = None
    ) -> torch.Tensor:
        """Sample one candidate, in windows of the length that the model knows."""
        codec = self.codec
        window = codec.latent_shape(self.settings.frames)[1]
        config = config.replaced(window=window, overlap=max(1, window // 3))
        shape = codec.latent_shape(codec.time_factor * (cond.frames - 1) + 1)
        return sample(self.transformer, padded(cond), shape, seed, config, on_step)

    def decode(self, portrait: Portrait, x_CFHW: torch.Tensor) -> np.ndarray:
        """Decode the latent; it holds who is seen, so the portrait does not count."""
        return self.codec.decode_frames(x_CFHW)

    def lip_mask(self, x_CFHW: torch.Tensor) -> torch.Tensor:
        return self.codec.lip_mask(x_CFHW)

    def velocity(self, x_BCFHW: torch.Tensor, t_B: torch.Tensor, conds: Sequence[Conditions]) -> torch.Tensor:
        # Prompt groups do not hold the text of the pass without text, which is the same for all.
        told = [dataclasses.replace(cond, null_text_LD=self._null_text_LD) for cond in conds]
        return super().velocity(x_BCFHW, t_B, [padded(cond) for cond in told])


def padded(cond: Conditions) -> Conditions:
    """The conditions with texts as long as Wan reads them; they are stored without the padding."""
    assert cond.text_LD is not None
    null = None if cond.null_text_LD is None else pad_text(cond.null_text_LD)
    return dataclasses.replace(cond, text_LD=pad_text(cond.text_LD), null_text_LD=null)
