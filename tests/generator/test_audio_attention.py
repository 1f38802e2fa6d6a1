"""Audio windows and the audio cross-attention, against FantasyTalking's table and a per-frame reference."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ft2ray.generator.audio_attention import (
    AudioCrossAttention,
    AudioProjection,
    CrossContext,
    audio_windows,
    window_ranges,
)


def test_windows_of_fantasytalking_to_the_token():
    """81 frames at 23 fps, 175 tokens: 21 latent frames, 17 tokens each, clipped only at the two ends."""
    ranges = window_ranges(175, 81, 4)
    windows = audio_windows(175, 81, 4)
    assert len(ranges) == 21
    assert ranges[:2] == [(-11, 5), (-3, 13)]
    assert {end - start + 1 for start, end in ranges} == {17}
    assert windows.mask_FW.sum(dim=1).tolist() == [6, 14] + [17] * 18 + [14]
    assert windows.index_FW[0, :6].tolist() == [0, 1, 2, 3, 4, 5]
    assert windows.index_FW[20, :14].tolist() == list(range(161, 175))


def test_windows_of_one_token_pair_per_frame():
    """Portrait codec, 50 tokens and 25 frames a second: window i is centred on token 2 i."""
    ranges = window_ranges(150, 75, 1, margin=8)
    assert ranges == [(2 * i - 9, 2 * i + 9) for i in range(75)]


@given(st.integers(1, 60), st.sampled_from([1, 4]), st.floats(1.2, 4.0), st.integers(0, 8))
@settings(max_examples=60, deadline=None)
def test_windows_cover_the_speech_in_order(latent_frames, stride, per_frame, margin):
    frames = stride * (latent_frames - 1) + 1
    tokens = max(1, round(per_frame * frames))
    windows = audio_windows(tokens, frames, stride, margin)
    valid = [row[mask].tolist() for row, mask in zip(windows.index_FW, windows.mask_FW, strict=True)]
    assert all(row == list(range(row[0], row[0] + len(row))) for row in valid)
    assert [row[0] for row in valid] == sorted(row[0] for row in valid)
    assert max(row[-1] for row in valid) <= tokens - 1 and min(row[0] for row in valid) >= 0
    if margin >= 4 and latent_frames > 1:
        assert set().union(*valid) == set(range(tokens))


@given(st.integers(2, 40), st.integers(1, 8))
@settings(max_examples=30, deadline=None)
def test_a_place_in_the_window_means_the_same_delay_in_every_frame(frames, margin):
    windows = audio_windows(2 * frames, frames, 1, margin)
    delay_FW = windows.index_FW - 2 * torch.arange(frames)[:, None] - windows.offset_FW
    assert delay_FW[windows.mask_FW].unique().tolist() == [-(1 + margin)]


@pytest.mark.parametrize("arguments", [(0, 81, 4), (10, 0, 4), (10, 5, 0), (10, 80, 4)])
def test_impossible_sizes_are_refused(arguments):
    with pytest.raises(ValueError, match="frames"):
        window_ranges(*arguments)


def reference_attention(query_FNHE, key_LHE, value_LHE, ranges):
    """Each frame by itself, in float64, over a plain Python slice of the recording."""
    out = np.zeros(query_FNHE.shape)
    for frame, (start, end) in enumerate(ranges):
        window = slice(max(start, 0), min(end, len(key_LHE) - 1) + 1)
        key, value = key_LHE[window], value_LHE[window]
        scores = np.einsum("nhe,whe->nhw", query_FNHE[frame], key) / math.sqrt(key.shape[-1])
        weight = np.exp(scores - scores.max(-1, keepdims=True))
        weight /= weight.sum(-1, keepdims=True)
        out[frame] = np.einsum("nhw,whe->nhe", weight, value)
    return out


@pytest.mark.parametrize(
    ("stride", "frames", "tokens", "per_frame"), [(4, 81, 175, 6), (4, 81, 175, 1), (1, 30, 60, 1)]
)
@pytest.mark.parametrize("with_places", [False, True])
def test_attention_equals_the_per_frame_reference(stride, frames, tokens, per_frame, with_places):
    torch.manual_seed(0)
    heads, width, audio_width = 2, 8, 6
    layer = AudioCrossAttention(width, audio_width).double()
    for projection in (layer.k_proj, layer.v_proj):
        torch.nn.init.normal_(projection.weight)
    windows, ranges = audio_windows(tokens, frames, stride), window_ranges(tokens, frames, stride)
    audio_BLA = torch.randn(2, tokens, audio_width, dtype=torch.float64)
    place_WA = (
        torch.randn(windows.index_FW.shape[1], audio_width, dtype=torch.float64) if with_places else None
    )
    query = torch.randn(2, len(ranges) * per_frame, heads, width // heads, dtype=torch.float64)
    context = CrossContext(audio_BLA, audio_BLA=audio_BLA, windows=windows, place_WA=place_WA)
    out_BND = layer.listen(query, context)

    for sample in range(2):
        for frame, (start, end) in enumerate(ranges):
            first, last = max(start, 0), min(end, tokens - 1)
            heard = audio_BLA[sample, first : last + 1]
            placed = heard if place_WA is None else heard + place_WA[first - start : last - start + 1]
            key, value = (
                x.detach().numpy().reshape(-1, heads, width // heads)
                for x in (layer.k_proj(placed), layer.v_proj(heard))
            )
            own = query[sample].unflatten(0, (len(ranges), per_frame))[frame : frame + 1].numpy()
            expected = reference_attention(own, key, value, [(0, last - first)])[0].reshape(per_frame, width)
            got = out_BND[sample].unflatten(0, (len(ranges), per_frame))[frame].detach().numpy()
            np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


def test_speech_outside_the_window_is_not_heard():
    torch.manual_seed(1)
    layer = AudioCrossAttention(8, 6)
    torch.nn.init.normal_(layer.v_proj.weight)
    torch.nn.init.normal_(layer.k_proj.weight)
    windows = audio_windows(40, 20, 1)
    audio = torch.randn(1, 40, 6)
    query = torch.randn(1, 20, 2, 4)
    before = layer.listen(query, CrossContext(audio, audio_BLA=audio, windows=windows))
    changed = audio.clone()
    changed[:, 30:] += 5.0
    after = layer.listen(query, CrossContext(audio, audio_BLA=changed, windows=windows))
    hears = [
        bool((row[mask] >= 30).any()) for row, mask in zip(windows.index_FW, windows.mask_FW, strict=True)
    ]
    assert [bool((x != y).any()) for x, y in zip(before[0], after[0], strict=True)] == hears
    assert 0 < sum(hears) < 20


def test_audio_projection_is_linear_then_layernorm():
    projection = AudioProjection(5, 16)
    assert [name for name, _ in projection.named_parameters()] == ["proj.weight", "norm.weight", "norm.bias"]
    out = projection(torch.randn(2, 3, 5))
    torch.testing.assert_close(out.mean(-1), torch.zeros(2, 3), atol=1e-5, rtol=0)
