"""The one error that a user's own file can cause: it names its reason and says what to do next."""


class MediaError(ValueError):
    """A portrait, recording or video that cannot be used.

    Args:
        reason: a short slug for tables and quarantine lists, such as "no_face" or "silence".
        sentence: a full sentence: what is wrong, with which file, and what to do about it.
    """

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(reason, sentence)  # both in `args`: the error survives pickling between processes
        self.reason = reason
        self.sentence = sentence

    def __str__(self) -> str:
        return self.sentence
