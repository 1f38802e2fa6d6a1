"""Settings of a clip as links."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft2ray.errors import UserError
from ft2ray.play import PlaySettings, settings_of

DEFAULT = PlaySettings(weights={"mn": 1.0, "ls": 1.0})


@given(
    st.builds(
        PlaySettings,
        systems=st.lists(st.sampled_from(["base", "tlpo", "expert_ls"]), min_size=1, max_size=3).map(tuple),
        seed=st.integers(0, 2**31 - 1),
        steps=st.integers(1, 50),
        guidance=st.floats(0, 6),
        motion=st.floats(0.1, 2),
        weights=st.fixed_dictionaries({"mn": st.floats(0, 3), "ls": st.floats(0, 3)}),
    )
)
def test_a_link_holds_the_exact_settings(chosen):
    from urllib.parse import parse_qsl

    assert settings_of(dict(parse_qsl(chosen.query)), DEFAULT) == chosen


def test_what_a_link_does_not_say_is_the_default():
    assert settings_of({"seed": "3", "w_ls": "2", "utm": "x"}, DEFAULT) == DEFAULT.replaced(
        seed=3, weights={"mn": 1.0, "ls": 2.0}
    )


@pytest.mark.parametrize("query", [{"seed": "-1"}, {"steps": "x"}, {"guidance": "nan"}, {"w_ls": "<b>"}])
def test_a_link_with_a_setting_that_cannot_be_is_refused(query):
    with pytest.raises(UserError, match="the link holds a setting that cannot be"):
        settings_of(query, DEFAULT)
