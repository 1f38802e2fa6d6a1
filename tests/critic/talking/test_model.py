"""The shared prefix answers as three separate full passes of the library's own forward would."""

import numpy as np
import pytest
import torch

from ft2ray.critic.processor import ProcessorConfig, log_mel, patches
from ft2ray.critic.questions import (
    QUESTIONS,
    answer_token_ids,
    prefix_text,
    question_text,
)
from ft2ray.critic.talking.model import (
    ClipBatch,
    answer_logits,
    audio_tokens,
    build_model,
    prefix_layout,
    question_token_ids,
    read_prefix,
    still_tokens,
    video_tokens,
)
from recipes.embedded.toy_thinker import TOY_PROCESSOR, build_tokenizer, toy_config
from tests.critic.clip_processor import ClipProcessor


@pytest.fixture(scope="module", params=["Qwen's own patches and chunks", "the toy's"])
def toy(request):
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    processor = TOY_PROCESSOR if request.param == "the toy's" else ProcessorConfig()
    model = build_model(toy_config(tokenizer, processor)).eval()
    for parameter in model.parameters():  # far from the flat start, where everything is equal
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return model, tokenizer, processor


def clips(count: int, frames: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    videos = rng.integers(0, 256, (count, frames, 84, 56, 3), dtype=np.uint8)
    stills = rng.integers(0, 256, (count, 2, 112, 112, 3), dtype=np.uint8)
    return videos, stills, 0.1 * rng.standard_normal((count, frames * 640)).astype(np.float32)


def as_batch(videos, stills, wavs, processor) -> ClipBatch:
    cut = [patches(video, processor, still=False) for video in videos]
    crops = [torch.cat([patches(s[None], processor, still=True)[0] for s in pair]) for pair in stills]
    return ClipBatch(
        video_BSE=torch.stack([c for c, _ in cut]),
        video_grid=cut[0][1],
        stills_BSE=torch.stack(crops),
        still_grids=((1, 8, 8), (1, 8, 8)),
        mel_BMJ=torch.stack([torch.from_numpy(log_mel(wav, processor)) for wav in wavs]),
    )


def shared_prefix_logits(model, tokenizer, processor, batch):
    layout = prefix_layout(model, tokenizer, processor, batch)
    tokens = video_tokens(model, batch), still_tokens(model, batch), audio_tokens(model, batch.mel_BMJ)
    hidden, cache = read_prefix(model, layout, *tokens)
    assert hidden.shape[1] == len(layout.ids_L)
    questions = question_token_ids(tokenizer, QUESTIONS)
    return answer_logits(model, layout, cache, questions, answer_token_ids(tokenizer))


@pytest.mark.parametrize("frames", [75, 51])
def test_equal_to_three_full_passes_of_the_library(toy, frames):
    model, tokenizer, processor = toy
    videos, stills, wavs = clips(2, frames)
    batch = as_batch(videos, stills, wavs, processor)
    with torch.no_grad():
        ours = shared_prefix_logits(model, tokenizer, processor, batch)
        for b in range(2):
            for k, question in enumerate(QUESTIONS.values()):
                inputs = ClipProcessor(tokenizer, processor)(
                    prefix_text(2) + question_text(question), list(stills[b]), videos[b], wavs[b]
                )
                full = model(**inputs, use_audio_in_video=True).logits[0, -1]
                expected = full[list(answer_token_ids(tokenizer))]
                torch.testing.assert_close(ours[b, k], expected, atol=1e-5, rtol=1e-5)
    assert ours.std() > 1e-3  # the comparison is not between zeros


def test_clips_of_a_batch_do_not_see_each_other(toy):
    model, tokenizer, processor = toy
    batch = as_batch(*clips(3, 50), processor)
    single = ClipBatch(
        batch.video_BSE[1:2], batch.video_grid, batch.stills_BSE[1:2], batch.still_grids, batch.mel_BMJ[1:2]
    )
    with torch.no_grad():
        together = shared_prefix_logits(model, tokenizer, processor, batch)
        alone = shared_prefix_logits(model, tokenizer, processor, single)
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=1e-5)


def test_gradients_reach_every_part(toy):
    model, tokenizer, processor = toy
    logits = shared_prefix_logits(model, tokenizer, processor, as_batch(*clips(1, 50), processor))
    model.zero_grad()
    logits[..., 0].sum().backward()
    reached = {
        name.split(".")[1] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()
    }
    assert {"visual", "audio_tower", "language_model"} <= reached
    model.zero_grad()


def test_several_sounds_share_the_pictures(toy):
    model, tokenizer, processor = toy
    if processor is not TOY_PROCESSOR:
        pytest.skip("pictures and sound alternate in this layout")
    batch = as_batch(*clips(2, 75), processor)
    layout = prefix_layout(model, tokenizer, processor, batch)
    video, stills = video_tokens(model, batch), still_tokens(model, batch)
    sounds = [audio_tokens(model, mel) for mel in (batch.mel_BMJ, batch.mel_BMJ.flip(0))]
    questions, answers = question_token_ids(tokenizer, QUESTIONS), answer_token_ids(tokenizer)
    with torch.no_grad():
        _, cache = read_prefix(model, layout, video, stills, torch.cat(sounds))
        together = answer_logits(model, layout, cache, questions, answers).unflatten(0, (2, 2))
        for kind, sound in enumerate(sounds):
            _, cache = read_prefix(model, layout, video, stills, sound)
            alone = answer_logits(model, layout, cache, questions, answers)
            torch.testing.assert_close(together[kind], alone, atol=1e-5, rtol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-4
