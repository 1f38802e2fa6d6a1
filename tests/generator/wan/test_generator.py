"""The Wan generator on a whole pipeline of toy width: the same verbs, the same numbers as diffusers."""

import math
import shutil

import numpy as np
import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanTransformer3DModel
from PIL import Image

from ft2ray.generator.settings import SamplerSettings
from ft2ray.generator.wan.codec import lip_pixels, to_latent_grid
from ft2ray.generator.wan.encoders import pad_text
from ft2ray.generator.wan.generator import WanGenerator
from ft2ray.loaders import generator_fingerprint, load_generator
from ft2ray.media.audio import SAMPLE_RATE, read_audio
from ft2ray.media.video import read_video, write_video
from ft2ray.tlpo.experts import Experts, detach_experts
from ft2ray.tlpo.gate import TimestepLayerGate
from ft2ray.tlpo.settings import ExpertSettings, LossSettings
from ft2ray.tlpo.step import PairBatch, expert_step, gate_step
from ft2ray.training import update
from tests.conftest import ASSETS
from tests.generator.conftest import BACKBONE

FAST = SamplerSettings(steps=2, shift=5.0, text_scale=5.0, audio_scale=4.5)


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """As much sound as nine frames at 23 fps last, and a little more."""
    path = sorted((ASSETS / "speech").glob("*.flac"))[0]
    return read_audio(path)[SAMPLE_RATE : SAMPLE_RATE + round(SAMPLE_RATE * 9.5 / 23)]


def test_a_prompt_is_encoded_once_for_everything(wan, hopper, speech):
    cond = wan.encode_prompt(hopper, speech)
    assert cond.frames == 3 and wan.fps == 23
    assert cond.text_LD.shape == (6, 16)  # A person is talking . </s>
    assert cond.null_text_LD.shape == (2, 16)  # still </s>
    assert cond.image_LD.shape == (5, 20) and cond.latent_CFHW.shape == (20, 3, 16, 16)
    assert cond.audio_LD.shape == (19, 24)  # wav2vec2: 9 / 23 s at 50 a second, less the rim
    assert all(tensor.dtype == torch.float32 for tensor in (cond.text_LD, cond.audio_LD, cond.latent_CFHW))


def test_the_same_numbers_as_diffusers_pipeline(wan, wan_weights, hopper, speech, monkeypatch):
    """Text, picture, first frame, guidance, shift and Euler steps, with the speech out of the guidance."""
    monkeypatch.setattr("diffusers.pipelines.wan.pipeline_wan_i2v.prompt_clean", str.strip)  # wants ftfy
    pipeline = WanImageToVideoPipeline.from_pretrained(wan_weights / "wan")
    pipeline.set_progress_bar_config(disable=True)
    plain_times = pipeline.scheduler.set_timesteps  # ours: even from 1 to 0, then shifted, as FantasyTalking
    monkeypatch.setattr(
        pipeline.scheduler,
        "set_timesteps",
        lambda steps, device=None: plain_times(sigmas=np.linspace(1, 0, steps + 1)[:-1], device=device),
    )
    noise = torch.randn((16, 3, 16, 16), generator=torch.Generator().manual_seed(7))
    picture = Image.fromarray(hopper.image_HW3).resize((128, 128), Image.Resampling.LANCZOS)
    expected = pipeline(
        image=picture, prompt=wan.settings.prompt, negative_prompt="still", height=128, width=128,
        num_frames=9, num_inference_steps=2, guidance_scale=5.0, latents=noise[None], output_type="latent",
    ).frames[0]  # fmt: skip
    config = SamplerSettings(steps=2, shift=5.0, text_scale=5.0, audio_scale=0.0)
    got = wan.sample(wan.encode_prompt(hopper, speech), 7, config)
    torch.testing.assert_close(got, expected, atol=2e-4, rtol=1e-3)
    louder = wan.sample(wan.encode_prompt(hopper, speech), 7, FAST)
    assert (louder - expected).abs().max() > 1e-2


def test_from_portrait_and_speech_to_an_mp4(wan_folder, wan, hopper, speech, tmp_path, monkeypatch):
    generator = load_generator(str(wan_folder("toy")))
    assert isinstance(generator, WanGenerator) and generator.fingerprint == wan.fingerprint
    cond = generator.encode_prompt(hopper, speech)
    for part in ("_speech", "_picture", "_text_LD"):  # encoded once: no candidate needs them again
        monkeypatch.setattr(generator, part, None)
    x_CFHW = generator.sample(cond, 0, FAST)
    assert tuple(x_CFHW.shape) == (16, 3, 16, 16) and torch.equal(x_CFHW, generator.sample(cond, 0, FAST))
    assert not torch.allclose(x_CFHW, generator.sample(cond, 1, FAST))
    frames_FHW3 = generator.decode(hopper, x_CFHW)
    assert frames_FHW3.shape == (9, 128, 128, 3) and frames_FHW3.dtype == np.uint8
    write_video(tmp_path / "clip.mp4", frames_FHW3, generator.fps, speech)
    assert len(read_video(tmp_path / "clip.mp4", fps=generator.fps)[0]) == 9


def test_portrait_text_and_speech_all_reach_the_velocity(wan, hopper, astronaut, speech):
    cond, x = wan.encode_prompt(hopper, speech), torch.randn(1, 16, 3, 16, 16)
    t = torch.tensor([0.6])
    v = wan.velocity(x, t, [cond])
    other = wan.encode_prompt(astronaut, speech[::-1].copy())
    for name in ("text_LD", "audio_LD", "image_LD", "latent_CFHW"):
        changed = type(cond)(**{**vars(cond), name: getattr(other, name)})
        if name == "text_LD":
            changed = type(cond)(**{**vars(cond), name: cond.null_text_LD})
        assert (wan.velocity(x, t, [changed]) - v).abs().max() > 1e-4, name
    batch = wan.velocity(x.expand(2, -1, -1, -1, -1), t.expand(2), [cond, other])
    torch.testing.assert_close(batch[:1], v)
    torch.testing.assert_close(batch[1:], wan.velocity(x, t, [other]))


@pytest.mark.parametrize("conditioning", ["attention", "added"])
def test_experts_and_gate_learn_on_it(conditioning, wan_folder, hopper, speech, monkeypatch):
    """One step of the lip-sync expert with a lip mask on Wan's latent grid, then one of the gate."""
    audio = {"attention": "../audio.safetensors", "added": "../added.safetensors"}[conditioning]
    generator = load_generator(str(wan_folder(conditioning, conditioning=conditioning, audio=audio)))
    cond = generator.encode_prompt(hopper, speech)
    winner, loser = (generator.sample(cond, seed, FAST) for seed in (0, 1))
    # A VAE with random weights shows no face, so the mask is taken from a clip that does.
    still = np.array(Image.fromarray(hopper.image_HW3).resize((128, 128)))
    monkeypatch.setattr(generator.codec, "decode_frames", lambda x_CFHW: np.repeat(still[None], 9, axis=0))
    mask = generator.lip_mask(winner)
    assert mask.shape == (1, 3, 16, 16) and 0 < mask.mean() < 0.1
    expected = to_latent_grid(lip_pixels(np.repeat(hopper.mesh_P3[None] / 2, 9, axis=0), 128), (3, 16, 16))
    assert (mask[0] * expected).sum() > 0.5 * expected.sum()  # where the portrait's lips are

    batch = PairBatch(
        winner[None], loser[None], mask[None], mask[None], [cond], torch.randn(1, *winner.shape),
        torch.tensor([0.5]),
    )  # fmt: skip
    experts = Experts(generator.transformer, ("mn", "ls", "vq"), ExpertSettings(rank=4, audio=True))
    config = LossSettings(beta=500.0)
    optimizer = torch.optim.AdamW(experts.parameters("ls"), 1e-3)
    first = expert_step(generator.velocity, experts, "ls", batch, config)
    assert first["loss"] == pytest.approx(math.log(2)) and first["margin"] == 0.0
    assert all(p.grad is None for name in ("mn", "vq") for p in experts.parameters(name))
    assert update(optimizer) > 0
    assert expert_step(generator.velocity, experts, "ls", batch, config)["loss"] < math.log(2)

    gate = TimestepLayerGate(6, 3, 24)
    gate_step(generator.velocity, experts, gate, ("mn", "ls", "vq"), batch, config)
    assert gate.projection_NKD.grad.abs().sum() > 0 and gate.bias_NK.grad.abs().sum() > 0
    x, t = torch.randn(1, *winner.shape), torch.tensor([0.3])
    listening = {name for name in experts.named_parameters("ls") if ".attn2." in name}
    wanted = {"attention": {"to_q", "v_proj"}, "added": {"to_q"}}[conditioning]
    assert {name.split(".lora_")[0].split(".")[-1] for name in listening} == wanted
    with torch.no_grad(), experts.reference():
        base = generator.velocity(x, t, [cond])
    detach_experts(generator.transformer)
    with torch.no_grad():
        assert torch.equal(base, generator.velocity(x, t, [cond]))


def test_long_speech_is_sampled_in_windows_the_model_knows(wan, hopper, speech, monkeypatch):
    seen = []
    plain = wan.transformer.forward
    monkeypatch.setattr(
        wan.transformer, "forward", lambda x, *a, **k: seen.append(x.shape[2]) or plain(x, *a, **k)
    )
    cond = wan.encode_prompt(hopper, np.tile(speech, 2))
    assert cond.frames == 5
    assert wan.sample(cond, 0, FAST).shape == (16, 5, 16, 16)
    assert set(seen) == {3}


@pytest.mark.parametrize(("seconds", "frames"), [(81 / 23, 81), (3.0, 69), (3.6, 81), (3.7, 85), (9 / 23, 9)])
def test_video_frames_fill_latent_frames(wan, seconds, frames):
    assert wan.video_frames(math.ceil(seconds * SAMPLE_RATE)) == frames


def test_too_little_speech_is_refused(wan, hopper):
    with pytest.raises(ValueError, match="less than 5 frames at 23 fps"):
        wan.encode_prompt(hopper, np.zeros(SAMPLE_RATE // 8, np.float32))


def test_half_precision_keeps_what_diffusers_keeps_in_float32(wan, wan_folder, hopper, speech):
    half = WanGenerator.load(wan_folder("half", dtype="bfloat16"))
    kinds = {name: p.dtype for name, p in half.transformer.named_parameters()}
    assert kinds["blocks.0.attn1.to_q.weight"] == kinds["audio_proj.proj.weight"] == torch.bfloat16
    assert kinds["condition_embedder.time_embedder.linear_1.weight"] == torch.float32
    assert kinds["blocks.0.scale_shift_table"] == kinds["blocks.0.norm2.weight"] == torch.float32
    cond, config = (
        wan.encode_prompt(hopper, speech),
        SamplerSettings(steps=2, shift=5.0, text_scale=1.0, audio_scale=1.0),
    )
    exact, rough = wan.sample(cond, 0, config), half.sample(cond, 0, config)
    assert rough.dtype == torch.float32 and 0 < (exact - rough).abs().mean() < 0.02
    x, t = torch.randn(1, 16, 3, 16, 16), torch.tensor([0.5])
    assert half.velocity(x, t, [cond]).dtype == torch.float32


def test_a_text_to_video_base_does_not_see_the_portrait(wan_weights, wan_folder, hopper, astronaut, speech):
    """The layout of Wan2.1-T2V-1.3B: 16 channels in, no image encoder."""
    pipeline = shutil.copytree(wan_weights / "wan", wan_weights / "t2v")
    for part in ("transformer", "image_encoder", "image_processor"):
        shutil.rmtree(pipeline / part)
    torch.manual_seed(0)
    config = {**BACKBONE, "in_channels": 16, "image_dim": None, "added_kv_proj_dim": None}
    WanTransformer3DModel(**config).save_pretrained(pipeline / "transformer")
    generator = WanGenerator.load(wan_folder("t2v_toy", pipeline="../t2v"))
    cond = generator.encode_prompt(hopper, speech)
    assert cond.image_LD is None and cond.latent_CFHW is None
    other = generator.encode_prompt(astronaut, speech)
    assert torch.equal(generator.sample(cond, 0, FAST), generator.sample(other, 0, FAST))


def test_fingerprint_is_of_contents_not_of_places(wan, wan_weights, wan_folder, tmp_path):
    moved = shutil.copytree(wan_weights / "wan", tmp_path / "elsewhere")
    assert generator_fingerprint(str(wan_folder("moved", pipeline=str(moved)))) == wan.fingerprint
    assert generator_fingerprint(str(wan_folder("other", prompt="A person ."))) != wan.fingerprint
    file = moved / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert generator_fingerprint(str(wan_folder("moved", pipeline=str(moved)))) != wan.fingerprint


def test_text_is_padded_with_zeros_to_what_wan_reads():
    padded = pad_text(torch.ones(6, 16))
    assert padded.shape == (512, 16) and padded.sum() == 6 * 16
