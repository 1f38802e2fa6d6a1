"""The node by ComfyUI's own interface, without ComfyUI."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from ft2ray import comfyui
from ft2ray.media.audio import read_audio
from ft2ray.media.video import write_video

NODE = comfyui.NODE_CLASS_MAPPINGS["FT2RayAnimate"]


class Stub:
    """Takes the place of a player: keeps what it was given, and makes a clip of eight frames."""

    def play(self, portrait, speech, chosen, progress):
        self.picture = np.asarray(Image.open(portrait))
        self.wav_T, self.chosen = read_audio(speech), chosen
        path = write_video(
            f"{portrait}.mp4", np.full((30, 32, 32, 3), 200, np.uint8), 25, np.zeros(19200, np.float32)
        )
        yield chosen.systems[0], path.read_bytes()


@pytest.fixture
def player(monkeypatch):
    stub = Stub()
    monkeypatch.setattr(comfyui, "_player", lambda run: stub)
    return stub


def test_the_node_says_what_it_takes_and_gives():
    taken = NODE.INPUT_TYPES()
    assert set(taken) == {"required", "optional"} and taken["required"]["portrait"] == ("IMAGE",)
    assert len(NODE.RETURN_TYPES) == len(NODE.RETURN_NAMES)
    assert hasattr(NODE, NODE.FUNCTION) and "comfy" not in sys.modules
    assert set(comfyui.NODE_DISPLAY_NAME_MAPPINGS) == set(comfyui.NODE_CLASS_MAPPINGS)


def test_tensors_go_in_and_come_out(player):
    image = torch.full((1, 32, 48, 3), 0.5)
    tone = torch.sin(torch.arange(48_000) / 48_000 * 2 * torch.pi * 300)[None, None].repeat(1, 2, 1)
    sound = {"waveform": tone, "sample_rate": 48_000}
    frames, heard, fps = getattr(NODE(), NODE.FUNCTION)(
        image, sound, run="runs/x", system="tlpo", seed=3, steps=4, guidance=2.0, motion=1.0, ls=2.0
    )
    assert frames.shape == (30, 32, 32, 3) and abs(float(frames.mean()) - 200 / 255) < 0.02
    assert heard is sound and fps == 25.0
    assert player.picture.shape == (32, 48, 3) and (player.picture == 128).all()
    assert abs(len(player.wav_T) - 16_000) < 200
    assert player.chosen.systems == ("tlpo",) and player.chosen.weights == {"ls": 2.0}
