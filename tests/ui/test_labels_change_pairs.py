"""From clicks on the page to other pairs: an annotator labels clips, the critic is fitted on the answers."""

import hashlib

import numpy as np
import pytest
from scipy.special import expit

from ft2ray.animator import Animator
from ft2ray.critic.assessment import labelled_views
from ft2ray.critic.labels import Label
from ft2ray.critic.talking.critic import TalkingCritic
from ft2ray.generator.settings import SamplerSettings
from ft2ray.media.audio import SAMPLE_RATE, read_audio
from ft2ray.media.portrait import load_portrait
from ft2ray.preference.rules import PairRule, pairs
from tests.conftest import ASSETS
from tests.ui.conftest import serving
from tests.ui.test_label_tab import press

pytestmark = [pytest.mark.browser, pytest.mark.slow]
GROUPS, CANDIDATES = 16, 4
ASKED = "mn"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder of clips, CANDIDATES for each piece of speech, and their paths."""
    folder = tmp_path_factory.mktemp("clips")
    animator = Animator("embedded-uncurated", 128, 60.0)
    face = load_portrait(ASSETS / "portraits" / "grace_hopper.jpg", 128, animator.mesher)
    wav_T = read_audio(sorted((ASSETS / "speech").glob("*.flac"))[0])
    length = int(1.5 * SAMPLE_RATE)
    for group in range(GROUPS):
        piece_T = np.resize(wav_T, GROUPS * length)[group * length :][:length]
        for n in range(CANDIDATES):
            clip = animator.speak(face, piece_T, SamplerSettings(steps=4), 10 * group + n)
            (folder / f"{group:02}-{n}.mp4").write_bytes(clip.mp4)
    return folder, sorted(folder.glob("*.mp4"))


def margins(critic, paths):
    labels = [Label(str(path), {}) for path in paths]
    return np.array([critic.margins([view])[0] for view in labelled_views(critic, labels)])


def preferred(critic, margin_NK):
    """Pairs of the question that was asked, as curation makes them."""
    k = critic.dimensions.index(ASKED)
    scale, shift = critic.scaling[ASKED]
    p_GN = expit(scale * margin_NK[:, k] + shift).reshape(GROUPS, CANDIDATES)
    rule = PairRule(margin=0.0, answers_differ=False)
    found = [pairs(p_N[:, None], (ASKED,), rule, (ASKED,))[ASKED] for p_N in p_GN]
    return {(group, pair.winner, pair.loser) for group, some in enumerate(found) for pair in some}


def test_answers_that_are_clicked_tune_the_critic_and_change_its_pairs(page, clips):
    folder, paths = clips
    packaged = TalkingCritic.load()
    before_NK = margins(packaged, paths)
    # Asked for motion, this annotator looks at what the critic calls quality.
    opinion_N = before_NK[:, packaged.dimensions.index("vq")]
    yes_N = opinion_N > np.median(opinion_N)
    known = {
        hashlib.sha256(path.read_bytes()).digest(): bool(yes) for path, yes in zip(paths, yes_N, strict=True)
    }
    with serving(folder) as url:
        page.goto(url)
        page.get_by_label("Your name").first.fill("Anna")
        page.get_by_label("Motion naturalness", exact=False).first.check()
        page.get_by_role("button", name="Start").first.click()
        page.locator("video:visible").first.wait_for()
        for _ in range(2 * len(paths)):  # some come twice, to check attention
            source = page.locator(".ft-keys video").first
            if not source.count():
                break
            seen = page.request.get(source.evaluate("video => video.src")).body()
            press(page, "y" if known[hashlib.sha256(seen).digest()] else "n")
        page.get_by_role("tab", name="Critic").click()
        page.get_by_role("button", name="Fit it on them").click()
        page.get_by_text("An update of its motion head is in it").wait_for(timeout=600_000)
    fitted = TalkingCritic.load(folder / "critic")
    after_NK = margins(fitted, paths)
    old, new = preferred(packaged, before_NK), preferred(fitted, after_NK)
    assert len(old - new) > len(old) / 4

    def agree(found):
        by_group = opinion_N.reshape(GROUPS, CANDIDATES)
        return np.mean([by_group[g, winner] > by_group[g, loser] for g, winner, loser in found])

    assert agree(new) > agree(old) + 0.2
