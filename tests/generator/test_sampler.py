"""The Euler sampler: guidance, windows and repeatability."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ft2ray.generator.sampler import (
    Conditions,
    audio_slice,
    crossfade_weights,
    guidance_weights,
    integrate,
    sample,
    timesteps,
    window_starts,
    windowed_velocity,
)
from ft2ray.generator.settings import SamplerSettings
from ft2ray.generator.transformer import AudioWanTransformer

PORTRAIT = dict(
    patch_size=(1, 1, 1),
    num_attention_heads=2,
    attention_head_dim=12,
    in_channels=5,
    out_channels=5,
    text_dim=4,
    freq_dim=16,
    ffn_dim=32,
    num_layers=2,
    audio_features=6,
    audio_dim=8,
    audio_stride=1,
    audio_margin=2,
    audio_places=7,
    rope_max_seq_len=256,
)


def toy(**config) -> AudioWanTransformer:
    torch.manual_seed(0)
    model = AudioWanTransformer(**{**PORTRAIT, **config}).eval()
    for name, parameter in model.named_parameters():
        if ".processor." in name or name == "audio_place":
            torch.nn.init.normal_(parameter, std=0.5)
    return model


def speech(frames: int, features: int = 6) -> Conditions:
    generator = torch.Generator().manual_seed(frames)
    return Conditions(None, torch.randn(2 * frames, features, generator=generator), frames)


@given(st.integers(1, 60), st.floats(0.2, 8))
def test_times_fall_from_one_to_zero(steps, shift):
    times = timesteps(steps, shift)
    assert times[0] == 1 and times[-1] == 0 and len(times) == steps + 1
    assert all(a > b for a, b in zip(times[:-1], times[1:], strict=True))


def test_shift_of_wan():
    assert timesteps(2, 5.0) == [1.0, pytest.approx(5 * 0.5 / 3), 0.0]


@given(st.floats(0, 6), st.floats(0, 6), st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1))
def test_guidance_is_the_three_pass_formula(text_scale, audio_scale, null, text, both):
    weights = guidance_weights(SamplerSettings(text_scale=text_scale, audio_scale=audio_scale), has_text=True)
    values = {"null": null, "text": text, "all": both}
    got = sum(weight * values[name] for name, weight in weights.items())
    assert got == pytest.approx(null + text_scale * (text - null) + audio_scale * (both - text), abs=1e-9)


@pytest.mark.parametrize(
    ("config", "has_text", "passes"),
    [
        (SamplerSettings(text_scale=1, audio_scale=1), True, ["all"]),
        (SamplerSettings(text_scale=5, audio_scale=5), True, ["null", "all"]),
        (SamplerSettings(text_scale=5, audio_scale=4.5), True, ["null", "text", "all"]),
        (SamplerSettings(text_scale=5, audio_scale=2), False, ["text", "all"]),
        (SamplerSettings(text_scale=1, audio_scale=0), True, ["text"]),
    ],
)
def test_passes_that_change_nothing_are_not_run(config, has_text, passes):
    assert list(guidance_weights(config, has_text)) == passes


@given(st.integers(1, 400), st.integers(2, 60), st.data())
@settings(max_examples=80)
def test_windows_cover_a_clip_and_fade_into_each_other(frames, window, data):
    overlap = data.draw(st.integers(1, window // 2))
    starts = window_starts(frames, window, overlap)
    weights = crossfade_weights(starts, frames, window)
    torch.testing.assert_close(weights.sum(dim=0), torch.ones(frames))
    assert (weights >= 0).all()
    assert starts[0] == 0 and starts[-1] + window >= frames
    assert all(
        first + window - second >= overlap for first, second in zip(starts[:-1], starts[1:], strict=True)
    )
    if len(starts) > 1:
        assert weights.diff(dim=1).abs().max() <= 2 / (overlap + 1)


def test_euler_is_exact_on_a_straight_path():
    """With the true velocity eps - x0 of one target, any number of steps ends at x0."""
    noise, target = torch.randn(2, 3, 1, 1), torch.randn(2, 3, 1, 1)
    for steps in (1, 7):
        out = integrate(lambda x, t: noise - target, noise, SamplerSettings(steps=steps, shift=3.0))
        torch.testing.assert_close(out, target)


def test_same_seed_same_bits_and_other_seed_other_clip():
    model, cond, config = toy(), speech(30), SamplerSettings(steps=3)
    first = sample(model, cond, (5, 30, 1, 1), 7, config)
    torch.manual_seed(99)
    torch.randn(10)
    assert torch.equal(first, sample(model, cond, (5, 30, 1, 1), 7, config))
    assert not torch.allclose(first, sample(model, cond, (5, 30, 1, 1), 8, config))


def test_noise_scale_is_the_size_of_the_noise_at_the_start():
    model, cond, shape = toy(num_layers=1), speech(6), (5, 6, 1, 1)
    torch.nn.init.zeros_(model.proj_out.weight)
    torch.nn.init.zeros_(model.proj_out.bias)  # a model that never moves: what comes out is the start
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for scale in (0.5, 1.0, 1.7):
        torch.testing.assert_close(
            sample(model, cond, shape, 1, SamplerSettings(steps=2, noise_scale=scale)), scale * noise
        )


def test_a_short_clip_is_one_window():
    """Window settings do not touch clips that fit: same bits."""
    model, cond = toy(), speech(30)
    whole = sample(model, cond, (5, 30, 1, 1), 0, SamplerSettings(steps=3, window=30, overlap=5))
    again = sample(model, cond, (5, 30, 1, 1), 0, SamplerSettings(steps=3, window=64, overlap=20))
    assert torch.equal(whole, again)


def test_overlapping_windows_equal_one_window_where_frames_do_not_see_each_other():
    """With the values of attn1 at zero, windows change nothing but the speech heard at their edges."""
    model = toy(audio_margin=0, audio_places=3)
    for block in model.blocks:
        torch.nn.init.zeros_(block.attn1.to_v.weight)
        torch.nn.init.zeros_(block.attn1.to_v.bias)
    cond = speech(50)
    whole = sample(model, cond, (5, 50, 1, 1), 0, SamplerSettings(steps=2, window=50, overlap=10))
    parts = sample(model, cond, (5, 50, 1, 1), 0, SamplerSettings(steps=2, window=20, overlap=9))
    difference = (whole - parts).abs().amax(dim=(0, 2, 3))
    starts = window_starts(50, 20, 9)
    inner = [f for f in range(50) if all(f not in (start, start + 19) for start in starts)]
    torch.testing.assert_close(difference[inner], torch.zeros(len(inner)), atol=2e-5, rtol=0)


@given(st.integers(60, 300), st.integers(1, 20))
def test_long_clips_have_no_seam_in_the_velocity(frames, overlap):
    """Windows that disagree completely (velocity 0 and 1 in turn) make no jump between two frames."""
    config = SamplerSettings(window=50, overlap=overlap)
    starts = window_starts(frames, 50, overlap)

    def disagreeing(x_CFHW, t, start):
        return torch.full_like(x_CFHW, float(starts.index(start) % 2))

    v_CFHW = windowed_velocity(disagreeing, torch.zeros(1, frames, 1, 1), 0.5, config)
    assert v_CFHW.diff(dim=1).abs().max() <= 2 / (overlap + 1)


def test_long_clips_are_close_to_one_long_window():
    model, cond = toy(), speech(150)
    whole = sample(model, cond, (5, 150, 1, 1), 3, SamplerSettings(steps=4, window=150, overlap=1))
    parts = sample(model, cond, (5, 150, 1, 1), 3, SamplerSettings(steps=4, window=50, overlap=20))
    assert (whole - parts).abs().mean() < 0.1 * whole.std()


def test_audio_of_a_window():
    cond = Conditions(None, torch.arange(350.0)[:, None], 41)  # 161 video frames, 350 tokens
    assert torch.equal(audio_slice(cond, 0, 41, 4), cond.audio_LD)
    part = audio_slice(cond, 10, 21, 4)  # video frames 40..120
    assert part[0] == round(40 * 350 / 161) and part[-1] == round(121 * 350 / 161) - 1
    even = Conditions(None, torch.arange(60.0)[:, None], 30)
    assert audio_slice(even, 7, 10, 1).flatten().tolist() == list(range(14, 34))


def test_i2v_with_36_channels_text_and_image_tokens():
    """Wan I2V at toy width, three passes: the image is never dropped, text and audio are guided apart."""
    model = toy(
        patch_size=(1, 2, 2), in_channels=36, out_channels=16, image_dim=10, added_kv_proj_dim=24,
        audio_stride=4, audio_margin=4, audio_places=None,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    cond = Conditions(
        text_LD=torch.randn(5, 4, generator=generator),
        audio_LD=torch.randn(20, 6, generator=generator),
        frames=3,
        null_text_LD=torch.randn(5, 4, generator=generator),
        image_LD=torch.randn(7, 10, generator=generator),
        latent_CFHW=torch.randn(20, 3, 4, 4, generator=generator),
    )
    config = SamplerSettings(steps=1, text_scale=5.0, audio_scale=4.5)
    got = sample(model, cond, (16, 3, 4, 4), 0, config)

    noise = torch.randn((16, 3, 4, 4), generator=torch.Generator().manual_seed(0))

    def one_pass(text, audio):
        with torch.no_grad():
            return model(
                torch.cat([noise, cond.latent_CFHW])[None],
                torch.tensor([1000.0]),
                text[None],
                encoder_hidden_states_image=cond.image_LD[None],
                audio=None if audio is None else audio[None],
                return_dict=False,
            )[0][0]

    v0, v_text = one_pass(cond.null_text_LD, None), one_pass(cond.text_LD, None)
    v_all = one_pass(cond.text_LD, cond.audio_LD)
    torch.testing.assert_close(
        got, noise - (v0 + 5.0 * (v_text - v0) + 4.5 * (v_all - v_text)), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(
    "bad", [{"steps": 0}, {"shift": 0.0}, {"noise_scale": 0.0}, {"window": 8, "overlap": 8}, {"overlap": 0}]
)
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ValueError, match="SamplerSettings"):
        SamplerSettings(**bad)
