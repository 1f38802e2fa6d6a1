import pickle

from ft2ray.errors import MediaError


def test_error_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(MediaError("no_face", "a.jpg shows no face; use a portrait.")))
    assert isinstance(error, ValueError)
    assert error.reason == "no_face"
    assert str(error) == "a.jpg shows no face; use a portrait."
