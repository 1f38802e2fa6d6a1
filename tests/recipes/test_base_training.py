"""Training the base: small, but the real loop."""

import numpy as np
import pytest
import torch

from ft2ray.generator.portrait.generator import PortraitGenerator
from ft2ray.generator.portrait.motion import MotionBasis
from ft2ray.generator.transformer import AudioWanTransformer
from ft2ray.media.speech import FEATURE_WIDTH
from recipes.embedded.base_data import Clip
from recipes.embedded.base_training import (
    BaseTrainingConfig,
    base_architecture,
    draw_batch,
    latent_scale,
    loss_weight,
    train,
)

CONFIG = BaseTrainingConfig(steps=4, batch=2, frames=(6, 9), warmup=2)
BASIS = MotionBasis.load()


def clips(count: int = 6) -> list[Clip]:
    rng = np.random.default_rng(0)
    return [
        Clip(
            rng.standard_normal((BASIS.channels, 12)).astype(np.float32) * 2,
            rng.standard_normal((24, FEATURE_WIDTH)).astype(np.float32),
            filmed=number % 3 == 0,
        )
        for number in range(count)
    ]


def test_batches_are_half_filmed_and_cut_in_step():
    marked = []
    for number, filmed in enumerate((True, False)):
        frame = np.arange(12.0) + 100 * number
        x_CF = np.tile(frame, (BASIS.channels, 1)).astype(np.float32)
        feat_LD = np.repeat(frame, 2)[:, None].repeat(FEATURE_WIDTH, 1).astype(np.float32)
        marked.append(Clip(x_CF, feat_LD, filmed))
    x_BCF, audio_BLD = draw_batch(marked, CONFIG, np.random.default_rng(0))
    assert x_BCF[0].max() < 100 <= x_BCF[1].min()
    assert torch.equal(audio_BLD[:, ::2, 0], x_BCF[:, 0]) and torch.equal(audio_BLD[:, 1::2, 0], x_BCF[:, 0])


def test_the_same_seed_gives_the_same_weights_bit_for_bit():
    def weights():
        losses = []
        scale, weight = latent_scale(clips()), loss_weight(BASIS)
        model = train(clips(), scale, weight, CONFIG, lambda step, loss: losses.append(loss))
        return model.state_dict(), losses

    (first, losses), (second, _) = weights(), weights()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert len(losses) == CONFIG.steps and all(np.isfinite(losses))


def test_training_starts_at_the_loss_of_knowing_nothing_and_falls():
    """Unit-variance noise and data: a model that says 0 has loss 2."""
    losses: list[float] = []
    config = BaseTrainingConfig(steps=24, batch=4, frames=(8, 12), warmup=5)
    data = clips(4)
    train(data, latent_scale(data), loss_weight(BASIS), config, lambda step, loss: losses.append(loss))
    assert 1.6 < losses[0] < 3.0
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:4])


def test_the_packaged_bases_say_what_their_channels_weighed():
    uncurated, curated = (
        PortraitGenerator.load(name).channel_weights for name in ("embedded-uncurated", "embedded")
    )
    assert uncurated.numpy() == pytest.approx(loss_weight(BASIS))
    lid, mouth, pose = (curated[part] for part in (BASIS.lid, BASIS.mouth, BASIS.pose))
    assert lid > mouth.max() > pose.max() and curated.mean() == pytest.approx(1)


def test_loss_weights_have_mean_one_and_favour_lips_and_lids():
    weight_C = loss_weight(BASIS)
    assert abs(weight_C.mean() - 1) < 1e-6
    assert weight_C[BASIS.lid] > weight_C[BASIS.mouth].min() > weight_C[BASIS.pose].max()


def test_the_base_has_the_size_that_the_demo_can_afford():
    with torch.device("meta"):
        model = AudioWanTransformer(**base_architecture(BASIS.channels))
    assert 1.5e6 < sum(parameter.numel() for parameter in model.parameters()) < 2.5e6
