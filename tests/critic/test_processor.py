"""The processor's tensors against the real Qwen2.5-Omni processor's, and its own rules."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ft2ray.critic.omni.folder import read_prompt
from ft2ray.critic.omni.whole_clip import scaled
from ft2ray.critic.processor import ProcessorConfig, audio_token_count, chunk_bounds, patches
from ft2ray.critic.questions import QUESTIONS, prefix_text, question_text
from recipes.embedded.toy_thinker import TOY_PROCESSOR, build_tokenizer
from tests.critic.clip_processor import ClipProcessor
from tests.critic.omni_toys import TEMPLATE


@pytest.fixture(scope="module")
def clip():
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (75, 84, 56, 3), dtype=np.uint8)
    stills = [rng.integers(0, 256, (112, 112, 3), dtype=np.uint8) for _ in range(2)]
    return stills, video, (0.1 * rng.standard_normal(48000)).astype(np.float32)


def real_processor(tokenizer, config: ProcessorConfig):
    """The library's own processor, or a skip where its video half cannot be imported."""
    pytest.importorskip("torchvision", reason="the real Qwen2.5-Omni processor needs torchvision")
    from transformers import Qwen2_5OmniProcessor, Qwen2VLVideoProcessor, WhisperFeatureExtractor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    size = {"shortest_edge": 28 * 28, "longest_edge": 768 * 28 * 28}
    return Qwen2_5OmniProcessor(
        image_processor=Qwen2VLImageProcessorPil(size=size, temporal_patch_size=config.temporal_patch_size),
        video_processor=Qwen2VLVideoProcessor(size=size, temporal_patch_size=config.temporal_patch_size),
        feature_extractor=WhisperFeatureExtractor(
            feature_size=config.mel_bins, return_attention_mask=True, sampling_rate=16000
        ),
        tokenizer=tokenizer,
    )


@pytest.mark.parametrize("seconds", [3.0, 2.0, 1.37])
@pytest.mark.parametrize("config", [ProcessorConfig(), TOY_PROCESSOR], ids=["qwen", "toy"])
def test_equal_to_the_real_processor(clip, seconds, config):
    stills, video, wav = clip
    video, wav = video[: round(seconds * 25)], wav[: round(seconds * 16000)]
    tokenizer = build_tokenizer()
    real = real_processor(tokenizer, config)
    text = prefix_text(2) + question_text(QUESTIONS["ls"])
    size = {"shortest_edge": 28 * 28, "longest_edge": 768 * 28 * 28}
    theirs = real(
        text=[text],
        images=stills,
        videos=[torch.from_numpy(video).permute(0, 3, 1, 2)],
        audio=[wav],
        audio_from_video_indices=[0],
        load_audio_from_video=True,
        return_tensors="pt",
        videos_kwargs={"fps": 25.0, "do_sample_frames": False, "size": size, "cap_pixels_per_frame": False},
        audio_kwargs={"sampling_rate": 16000},
        seconds_per_chunk=float(config.seconds_per_chunk),
        position_id_per_seconds=25,
    )
    ours = ClipProcessor(tokenizer, config)(text, stills, video, wav)
    assert set(theirs) == set(ours)
    for name, tensor in ours.items():
        theirs_tensor = torch.as_tensor(theirs[name])
        assert theirs_tensor.shape == tensor.shape, name
        torch.testing.assert_close(theirs_tensor.to(tensor.dtype), tensor, atol=2e-5, rtol=0, msg=name)


def test_placeholders_match_the_tensors(clip):
    stills, video, wav = clip
    tokenizer = build_tokenizer()
    out = ClipProcessor(tokenizer)(prefix_text(2), stills, video, wav)
    ids = out["input_ids"]
    for token, count in (
        (tokenizer.image_token_id, 2 * 16),
        (tokenizer.video_token_id, 38 * 6),
        (tokenizer.audio_token_id, 75),
    ):
        assert int((ids == token).sum()) == count
    assert out["pixel_values_videos"].shape == (38 * 24, 3 * 2 * 14 * 14)
    assert int(out["feature_attention_mask"].sum()) == 300


def test_patch_holds_its_own_pixels():
    video = np.zeros((2, 56, 56, 3), dtype=np.uint8)
    video[1, 14:28, 0:14, 2] = 255  # second frame, blue, the patch below the first one
    cut, grid = patches(video, ProcessorConfig(), still=False)
    bright = (cut.view(16, 3, 2, 14, 14) > 2.0).flatten(3).all(-1)
    assert grid == (1, 4, 4)
    assert bright.nonzero().tolist() == [[2, 2, 1]]  # merge order: the block's lower left is third


def test_wrong_sizes_and_sounds_are_named(clip):
    stills, video, wav = clip
    processor = ClipProcessor(build_tokenizer())
    with pytest.raises(ValueError, match="multiples of 28"):
        processor(prefix_text(0), [], video[:, :80], wav)
    with pytest.raises(ValueError, match="placeholders"):
        processor(prefix_text(1), stills, video, wav)
    with pytest.raises(ValueError, match="NaN"):
        processor(prefix_text(2), stills, video, np.full_like(wav, np.nan))
    with pytest.raises(ValueError, match="windows"):
        processor(prefix_text(2), stills, video, np.zeros(0, np.float32))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 400), st.integers(1, 60))
def test_chunks_cover_every_token_once(count, per_chunk):
    bounds = chunk_bounds(np.arange(count), per_chunk)
    assert bounds[0][0] == 0 and bounds[-1][1] == count
    assert all(left[1] == right[0] for left, right in zip(bounds, bounds[1:], strict=False))
    assert all(0 < end - start <= per_chunk for start, end in bounds)


def test_audio_tokens_run_at_25_hertz():
    assert [audio_token_count(frames) for frames in (300, 200, 100)] == [75, 50, 25]


@pytest.mark.parametrize("seconds", [1.5, 3.5])  # within one chunk of two seconds, and over its end
def test_equal_to_the_real_processor_at_full_size(seconds):
    """Published patches and mel bins, 10 pictures a second, the published chat template around the clip."""
    rng = np.random.default_rng(1)
    config = ProcessorConfig(mel_bins=128, fps=10.0, padded_seconds=300)
    tokenizer = build_tokenizer()
    tokenizer.chat_template = TEMPLATE
    prompt = read_prompt(tokenizer, QUESTIONS)
    video = rng.integers(0, 256, (round(seconds * 10), 336, 448, 3), dtype=np.uint8)
    wav = (0.1 * rng.standard_normal(round(seconds * 16000))).astype(np.float32)
    real = real_processor(tokenizer, config)
    real.feature_extractor = type(real.feature_extractor)(
        feature_size=128, chunk_length=300, return_attention_mask=True, sampling_rate=16000
    )
    theirs = real(
        text=[prompt.prefix + prompt.endings[1]],
        videos=[torch.from_numpy(video).permute(0, 3, 1, 2)],
        audio=[wav],
        audio_from_video_indices=[0],
        load_audio_from_video=True,
        return_tensors="pt",
        videos_kwargs={"fps": 10.0, "do_sample_frames": False, "cap_pixels_per_frame": False},
        audio_kwargs={"sampling_rate": 16000},
        seconds_per_chunk=2.0,
        position_id_per_seconds=25,
    )
    ours = ClipProcessor(tokenizer, config)(prompt.prefix + prompt.endings[1], [], video, wav)
    assert set(theirs) == set(ours)
    for name, tensor in ours.items():
        theirs_tensor = torch.as_tensor(theirs[name])
        assert theirs_tensor.shape == tensor.shape, name
        torch.testing.assert_close(theirs_tensor.to(tensor.dtype), tensor, atol=2e-5, rtol=0, msg=name)


def test_pictures_are_scaled_as_qwen_scales_them():
    functional = pytest.importorskip(
        "torchvision.transforms.functional", reason="Qwen's loading uses torchvision"
    )
    video = np.random.default_rng(2).integers(0, 256, (3, 360, 640, 3), dtype=np.uint8)
    theirs = functional.resize(
        torch.from_numpy(video).permute(0, 3, 1, 2), [252, 448],
        interpolation=functional.InterpolationMode.BICUBIC, antialias=True,
    )  # fmt: skip
    assert np.array_equal(scaled(video, (252, 448)), theirs.permute(0, 2, 3, 1).numpy())
