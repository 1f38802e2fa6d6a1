"""The full-size critic at toy width: one pass for all questions, the numbers of the library's own model."""

import numpy as np
import pytest
import torch

from ft2ray.critic.base import Critic
from ft2ray.critic.omni.critic import OmniCritic, question_mask
from ft2ray.critic.omni.folder import base_fingerprint, load_thinker
from ft2ray.critic.questions import QUESTIONS, answer_token_ids
from ft2ray.errors import NonFiniteError
from tests.critic.clip_processor import ClipProcessor
from tests.critic.omni_toys import toy_clip, write_thinker, write_whole_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_thinker(tmp_path_factory.mktemp("omni") / "thinker")


@pytest.fixture(scope="module")
def critic(folder) -> Critic:
    return OmniCritic.load(folder, device="cpu")


def test_scores_are_probabilities_in_the_order_of_the_questions(critic):
    p_NK = critic.score([toy_clip(1), toy_clip(2)])
    assert critic.dimensions == ("mn", "ls", "vq")
    assert p_NK.shape == (2, 3) and p_NK.dtype == np.float64
    assert ((p_NK > 0) & (p_NK < 1)).all() and np.ptp(p_NK) > 1e-4


@pytest.mark.parametrize("seconds", [1.2, 2.9])  # within one chunk of two seconds, and over its end
def test_each_question_is_answered_as_if_it_were_asked_alone(folder, critic, seconds):
    """Against transformers' whole forward on the prompt and the tensors of the real processor."""
    reader, clip = critic.reader, toy_clip(3, seconds)
    theirs = load_thinker(folder, "cpu")
    yes, no = answer_token_ids(reader.tokenizer)
    expected = []
    for ending in reader.prompt.endings:
        tensors = ClipProcessor(reader.tokenizer, reader.processor)(
            reader.prompt.prefix + ending, [], clip.frames_FHW3, clip.wav_T
        )
        with torch.no_grad():
            logits = theirs(**tensors, use_audio_in_video=True).logits[0, -1]
        expected.append(float(logits[yes] - logits[no]))
    assert np.allclose(critic.margins([clip])[0], expected, atol=1e-4)


def test_the_chat_template_stands_around_the_clip(critic):
    prompt = critic.reader.prompt
    assert prompt.prefix == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<|vision_bos|><|VIDEO|><|vision_eos|>"
    )
    assert prompt.endings[1] == QUESTIONS["ls"] + "<|im_end|>\n<|im_start|>assistant\n"


def test_a_question_sees_the_clip_and_itself_only():
    seen = question_mask(torch.tensor([0, 0, 1, 1, 2]))[0, 0]
    assert seen.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]


def test_the_whole_model_and_the_thinker_alone_are_one_critic(folder, critic, tmp_path):
    whole = OmniCritic.load(write_whole_model(tmp_path / "whole", folder), device="cpu")
    assert np.array_equal(whole.score([toy_clip(4)]), critic.score([toy_clip(4)]))


def test_each_clip_is_judged_alone(critic):
    clips = [toy_clip(1), toy_clip(2, seconds=2.0), toy_clip(3, size=84)]
    together = critic.score(clips)
    assert np.array_equal(together, np.concatenate([critic.score([one]) for one in clips]))


def test_numbers_are_of_the_type_that_the_folder_says(folder, critic, tmp_path):
    half = OmniCritic.load(write_thinker(tmp_path / "half", dtype=torch.bfloat16), device="cpu")
    assert {p.dtype for p in half.reader.model.parameters()} == {torch.bfloat16}
    assert np.allclose(half.score([toy_clip()]), critic.score([toy_clip()]), atol=0.1)


def test_how_it_looks_is_part_of_its_identity(folder, critic):
    assert OmniCritic.load(folder, fps=12.0, device="cpu").fingerprint != critic.fingerprint
    assert OmniCritic.load(folder, pixels=224, device="cpu").fingerprint != critic.fingerprint
    assert OmniCritic.load(folder, device="cpu").fingerprint == critic.fingerprint
    assert len(base_fingerprint(folder)) == 16


def test_two_pictures_a_second_are_too_few_for_lips(folder):
    with pytest.raises(ValueError, match="at 2 fps a clip of 3.5 s is 7 pictures.* 8 to 12 fps"):
        OmniCritic.load(folder, fps=2.0)


def test_more_tokens_than_the_model_takes_are_refused(critic):
    critic.reader.model.config.text_config.max_position_embeddings, most = (
        60,
        (critic.reader.model.config.text_config.max_position_embeddings),
    )
    try:
        with pytest.raises(ValueError, match="the critic takes 60; cut it or lower critic.pixels"):
            critic.score([toy_clip()])
    finally:
        critic.reader.model.config.text_config.max_position_embeddings = most


def test_broken_weights_raise_instead_of_scoring(folder):
    broken = OmniCritic.load(folder, device="cpu")
    with torch.no_grad():
        broken.reader.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="clip 0 are not finite"):
        broken.score([toy_clip()])
