"""Exceptions whose message is written for users; every other exception is a bug and keeps its traceback.

    FT2RayError            exit code  HTTP
      UserError            2          422    a mistake that the same command meets again: mend it first
        ConfigurationError                   a setting, or a combination of settings
        MediaError                           a portrait, recording or video; has a reason for tables
        WeightsError                         weights, adapters and policies that cannot be read or do not fit
        DataError                            labels, stored rows and run folders
          StoredDataError                    a stored file that is not what was written
      StoreRefused         2          502    the store does not take these credentials, or lacks the bucket
      StoreUnavailable     75         503    the store does not answer; the same call may work later
      NonFiniteError       2          500    latents, scores, losses, gradients or weights are not finite
      CriticError          75         502    the critic gave no scores, or numbers that are not probabilities
      RunEnded             75                a run that cannot go on for now; the same command continues it

The command line prints the message of an FT2RayError as one sentence and exits with its code. 75 is
EX_TEMPFAIL of sysexits.h: a supervisor may try again, which it must not after 2. A bug exits with 1.
"""

from __future__ import annotations


class FT2RayError(Exception):
    """Base of all errors whose message is one sentence: what is wrong, where, and what to do next."""

    exit_code = 75


class UserError(FT2RayError, ValueError):
    """The user can mend this, and until then the same command fails again."""

    exit_code = 2


class ConfigurationError(UserError):
    """A setting that cannot work."""


class MediaError(UserError):
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


class WeightsError(UserError):
    """Weights, adapters or a policy that cannot be read, are damaged, or do not fit each other."""


class DataError(UserError):
    """Labels, stored rows or a run folder that cannot be used."""


class StoredDataError(DataError):
    """A stored file does not hold what was written: a damaged, truncated, empty or foreign one.

    Args:
        url: the file.
        what: what it is and what is wrong with it.
        remedy: what to do.
    """

    def __init__(self, url: str, what: str, remedy: str) -> None:
        super().__init__(url, what, remedy)  # all in `args`: the error survives pickling between processes
        self.url = url

    def __str__(self) -> str:
        return "{}: {}; {}".format(*self.args)


class StoreRefused(FT2RayError):
    """The store does not take these credentials, or has no such bucket: the same call will never work."""

    exit_code = 2


class StoreUnavailable(FT2RayError):
    """The store does not answer, or answers with errors only; the same call may work later."""


class CriticError(FT2RayError):
    """The critic gave no scores, or something that is not a probability."""


class NonFiniteError(FT2RayError):
    """A stage made values that are not finite; nothing of them is kept, and the same command fails again."""

    exit_code = 2


class RunEnded(FT2RayError):
    """A run cannot go on for now; what is committed stays, and the same command continues it."""
