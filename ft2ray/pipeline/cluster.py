"""The Ray cluster of one command: joined where an address names it, else private and gone at the end."""

from __future__ import annotations

import functools
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import ray
from ray._private import parameter
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray._private.services import find_bootstrap_address
from ray.exceptions import AuthenticationError

from ft2ray.errors import ConfigurationError, UserError

MIN_CPUS = 4  # logical: the actors of a run ask for halves
CONNECT_SECONDS = 5.0
# Paths of Unix sockets end at 107 characters, of which Ray's session folder and socket names take 70.
LONGEST_TEMPORARY_FOLDER = 24
# One thread per process: several processes share the cores, and spinning OpenMP pools would fight.
THREADS = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}

log = logging.getLogger(__name__)


def job_address() -> str | None:
    """Return "auto" in the driver of a Ray job, which runs on the cluster that runs the job, else None."""
    return "auto" if RAY_JOB_CONFIG_JSON_ENV_VAR in os.environ else None


@contextmanager
def ray_cluster(
    address: str | None = None, log_to_driver: bool = False, environment: dict[str, str] | None = None
) -> Iterator[None]:
    """Join the cluster at `address`, or start a private one on this machine and stop it at the end.

    A private cluster has its own folder and its own ports, so that it neither joins another Ray of this
    machine (nor the stale address of one) nor is joined, whatever RAY_ADDRESS says.

    Args:
        address: host:port, ray://host:port, or "auto" for the cluster that RAY_ADDRESS names or `ray start`
            began here; None for a private one.
        log_to_driver: whether this process prints what the workers print.
        environment: more variables for all workers.

    Raises:
        ConfigurationError: no such cluster answers, it does not take this token, or it takes jobs only.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # else every checkpoint waits 2 s
    start = functools.partial(
        ray.init,
        runtime_env={"env_vars": THREADS | (environment or {})},
        log_to_driver=log_to_driver,
        logging_level=logging.ERROR,
    )
    with _joined(address, start) if address is not None else _private(start):
        for name in ("ray.data", "ray.serve", "ray.train"):
            logging.getLogger(name).setLevel(logging.WARNING)
        # It calls every error of an actor a bug of Ray; the error itself is raised.
        logging.getLogger("ray.data.exceptions").setLevel(logging.CRITICAL)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False  # ours count groups, not blocks
        context.raise_original_map_exception = True  # errors are known by their type (failures.py)
        yield


@contextmanager
def _joined(address: str, start: functools.partial) -> Iterator[None]:
    try:
        start(address=_reachable(address))
    except AuthenticationError as error:
        raise ConfigurationError(
            f"the Ray cluster at {address} wants a token: export RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN "
            "where it is not that of ~/.ray/auth_token"
        ) from error
    except (ConnectionError, OSError) as error:
        raise ConfigurationError(
            f"no Ray cluster answers at {address} ({error}); start it, or leave the address out for a "
            "private one"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _reachable(address: str) -> str:
    """The address itself, "auto" resolved; "auto" of Ray would also join private clusters of this machine."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or find_bootstrap_address(None) or ""
        if not address:
            raise ConnectionError("RAY_ADDRESS is not set, and no `ray start` has left an address here")
    if address.startswith(("http://", "https://")):
        raise ConfigurationError(
            f"{address} takes jobs (`ray job submit`) and is no address of a cluster: set RAY_ADDRESS or "
            "resources.address to host:port of its head, 6379 by default, or to ray://host:10001"
        )
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "://" not in host:  # Ray itself waits for minutes
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    return address


@contextmanager
def _private(start: functools.partial) -> Iterator[None]:
    base = own = tempfile.gettempdir()
    if len(base) > LONGEST_TEMPORARY_FOLDER:
        base = "/tmp"
    folder = Path(tempfile.mkdtemp(prefix="ft2ray-", dir=base))
    # ray.init has no argument for this port, and a `ray start --head` beside this one needs its default.
    any_port = functools.partial(parameter.RayParams, dashboard_agent_listen_port=0)
    logs_matter = True
    try:
        os.environ["TMPDIR"] = base  # Ray's dashboard has sockets there; workers and this process get it back
        with mock.patch.object(parameter, "RayParams", any_port):
            start(
                runtime_env={"env_vars": {"TMPDIR": own} | start.keywords["runtime_env"]["env_vars"]},
                address="local",
                num_cpus=max(MIN_CPUS, os.cpu_count() or 1),
                dashboard_port=0,
                _temp_dir=str(folder),
            )
        os.environ["TMPDIR"] = own
        yield
        logs_matter = False
    except UserError:
        logs_matter = False
        raise
    finally:
        os.environ["TMPDIR"] = own
        ray.shutdown()
        if logs_matter:
            log.warning("the logs of Ray stay in %s", folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)  # raylets may still be closing their files
