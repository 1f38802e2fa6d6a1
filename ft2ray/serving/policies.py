"""Which policy of a run is served: its current one, where that one works.

A policy that cannot be read, does not fit or gives numbers that are not finite is refused: the one at work
stays, and a replica that starts then takes the newest earlier one that works, else the base. The refused one
is tried again when its files or `current` change.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from ray.util.metrics import Gauge

from ft2ray import storage
from ft2ray.errors import StoreRefused, StoreUnavailable
from ft2ray.run import newest_policy, policy_url
from ft2ray.tlpo.policy import load_policy

if TYPE_CHECKING:
    from ft2ray.tlpo.policy import Policy

log = logging.getLogger("ray.serve")


class Follower:
    """Adopts each new current policy of a run.

    Args:
        run_dir: the run.
        base: fingerprint of the generator that is at work.
        adopt: tries a policy out and works with it from then on, or raises and keeps the old one.

    Attributes:
        refused: why the current policy is not the one at work; None where it is, or where the run has none.
    """

    def __init__(self, run_dir: str, base: str, adopt: Callable[[Policy], None]):
        self.run_dir, self.base, self.adopt = run_dir, base, adopt
        self.refused: str | None = None
        self._at_work: str | None = None
        self._tried: tuple[str, list[tuple[str, str]]] | None = None
        self._gauge = Gauge(
            "ft2ray_serving_policy_refused",
            "1 while the run's current policy is not the one that a replica serves",
            tag_keys=("run_dir",),
        ).set_default_tags({"run_dir": run_dir})

    def look(self) -> None:
        """Adopt the run's current policy where it is new; never raises, so that service and thread go on."""
        try:
            name = storage.read_bytes(storage.join(self.run_dir, "policies", "current")).decode()
            if name == self._at_work:
                self._tell(None)
                return
            files = storage.versions(self._url(name))
        except FileNotFoundError:  # no policy yet
            return
        except (StoreUnavailable, StoreRefused, OSError, ValueError):
            log.exception("the current policy of %s cannot be looked up", self.run_dir)
            return
        if (name, files) == self._tried:
            return
        try:
            self._take(name)
            self._tell(None)
        except StoreUnavailable:  # says nothing about the policy: the next look tries again
            log.exception("the policy %s cannot be fetched", name)
            return
        except Exception as error:  # whatever a foreign file makes of the loaders, the service goes on
            log.exception("the policy %s is refused, %s stays at work", name, self._at_work or "the base")
            self._tell(f"{name}: {type(error).__name__}")
            if self._at_work is None:
                self._take_earlier(name)
        self._tried = name, files

    def _take(self, name: str) -> None:
        policy = load_policy(self._url(name), self.base)
        self.adopt(policy)
        self._at_work = name
        log.info("serving policy %s (%s)", policy.fingerprint, name)

    def _take_earlier(self, name: str) -> None:
        """Serve the newest version before `name` that works."""
        key, _, version = name.rpartition("-")
        at_most = int(version) - 1 if version.isdecimal() else 0
        while at_most := newest_policy(self.run_dir, key, at_most):
            earlier = storage.base_name(policy_url(self.run_dir, key, at_most))
            try:
                self._take(earlier)
                return
            except Exception:  # as above
                log.exception("the policy %s is refused too", earlier)
            at_most -= 1

    def _tell(self, refused: str | None) -> None:
        self.refused = refused
        self._gauge.set(0.0 if refused is None else 1.0)

    def _url(self, name: str) -> str:
        return storage.join(self.run_dir, "policies", name)
