"""Test support: a gateway process with its own configuration and folder, and a proxy that breaks connections."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import unittest
import uuid
from pathlib import Path

from lastmile import Timing

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests"))
from processes import free_ports, wait_until_listening

LASTMILE = os.environ.get("LASTMILE", str(ROOT / "target/debug/lastmile"))
VECTORS = ROOT / "tests/vectors"
#: Without the caller's `LASTMILE_…` variables, which the gateway would read as settings.
ENV = {name: value for name, value in os.environ.items() if not name.startswith("LASTMILE")}
#: Short backoff, so that tests reconnect fast.
FAST_TIMING = Timing(backoff=0.02, backoff_max=0.2)
#: Generous: the machine may be slow and busy.
TEST_TIMEOUT_SECS = 90.0

CONFIG = """egress = "none"
[listeners]
public = {{ {tls}address = "127.0.0.1:{public}", roles = ["subscribe"], compression = true }}
publish = {{ {tls}address = "127.0.0.1:{publish}", roles = ["publish"] }}
proxied = {{ {tls}address = "127.0.0.1:{proxied}", roles = ["publish"], hosts = ["127.0.0.1:{proxy}"] }}
[publishers.market-data]
key = "{line}"
channels = ["*"]
[publishers.narrow]
key = "{narrow}"
channels = ["narrow.*"]
[[issuers]]
issuer = "https://app.example"
audience = "lastmile"
jwks_file = "{folder}/jwks.json"
leeway_secs = 0
[[channels]]
match = "members.*"
subscribers = "authenticated"
[[channels]]
match = "bare.*"
subscribers = "anyone"
[[channels]]
match = "small.*"
subscribers = "anyone"
max_message_bytes = 20
[[channels]]
match = "short.*"
subscribers = "anyone"
backlog_messages = 5
[[channels]]
match = "*"
subscribers = "anyone"
replies = true
backlog_messages = 10000
[drain]
window_secs = 0
deadline_secs = 2
{more}
"""


#: By URL of a publish listener: the socket of its proxy, and the port of the listener behind it.
PUBLISH_PROXIES: dict[str, tuple[socket.socket, int]] = {}


class Gateway:
    def __init__(self, more: str = "", tls: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lastmile-python-"))
        self.key, line = self.keygen("publisher.key")
        self.narrow_key, narrow = self.keygen("narrow.key")
        self.keygen("issuer.key")
        (self.folder / "jwks.json").write_text(self.command("token", "--key", self.folder / "issuer.key", "--jwks"))
        self._ports = free_ports(3)
        public, publish, proxied = self._ports
        self.url, self.publish_url = f"http://127.0.0.1:{public}", f"http://127.0.0.1:{publish}"
        # Publishers sign for the address of their proxy, which is the name of another listener.
        proxy = socket.create_server(("127.0.0.1", 0))
        PUBLISH_PROXIES[self.publish_url] = (proxy, proxied)
        self.certificate = self.folder / "cert.pem"
        if tls:
            self.url, self.publish_url = f"https://localhost:{public}", f"https://localhost:{publish}"
            secret = self.folder / "cert.key"
            make = "openssl req -x509 -newkey ed25519 -nodes -days 2 -subj /CN=localhost".split()
            files = ["-addext", "subjectAltName=DNS:localhost", "-keyout", secret, "-out", self.certificate]
            subprocess.run([*make, *files], check=True, capture_output=True)
            tls_lines = f'tls = {{ certificate = "{self.certificate}", key = "{secret}" }}, '
        else:
            tls_lines = ""
        config = {"tls": tls_lines, "folder": self.folder, "line": line, "narrow": narrow, "public": public, "publish": publish}
        config |= {"proxied": proxied, "proxy": proxy.getsockname()[1]}
        (self.folder / "gateway.toml").write_text(CONFIG.format(more=more.format(folder=self.folder), **config))
        self.start()

    def start(self) -> None:
        """Starts the process. After `kill`, starts it again on the same ports."""
        command = [LASTMILE, "serve", "--config", str(self.folder / "gateway.toml")]
        log = self.folder / "gateway.log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(command, env=ENV, stdin=subprocess.DEVNULL, stderr=output)
        wait_until_listening(self.process, self._ports, log)

    def kill(self, how: int = signal.SIGKILL) -> None:
        self.process.send_signal(how)
        self.process.wait()

    def close(self) -> None:
        self.kill()
        PUBLISH_PROXIES.pop(self.publish_url.replace("https://localhost", "http://127.0.0.1"))[0].close()
        shutil.rmtree(self.folder)

    def token(self, subject: str = "alice", expires: str = "1h") -> str:
        who = ("--issuer", "https://app.example", "--subject", subject, "--expires", expires)
        return self.command("token", "--key", self.folder / "issuer.key", *who).strip()

    def keygen(self, name: str) -> tuple[Path, str]:
        """Returns the key file, and the public key for the whitelist."""
        line = self.command("keygen", "-o", self.folder / name)
        found = re.search(r"ssh-ed25519 \S+", line)
        assert found, line
        return self.folder / name, found[0]

    @staticmethod
    def command(*arguments: object) -> str:
        command = [LASTMILE, *map(str, arguments)]
        return subprocess.run(command, env=ENV, check=True, capture_output=True, text=True).stdout


class Proxy:
    """A TCP proxy to a local port.

    `disconnect` breaks all connections. `is_refusing` refuses new ones. The next `responses_to_drop` connections lose
    their first response and are closed. While `may_forward` is clear, nothing is forwarded to the gateway.
    """

    def __init__(self, url: str) -> None:
        self._socket, self._port = PUBLISH_PROXIES.get(url, (None, int(url.rsplit(":", 1)[1])))
        self._writers: set[asyncio.StreamWriter] = set()
        self.is_refusing = False
        self.responses_to_drop = 0
        self.may_forward = asyncio.Event()
        self.may_forward.set()
        self.connections = 0

    async def __aenter__(self) -> Proxy:
        listening = self._socket.dup() if self._socket else socket.create_server(("127.0.0.1", 0))
        self._server = await asyncio.start_server(self._serve, sock=listening)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.disconnect()

    def disconnect(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_refusing:
            return writer.transport.abort()
        self.connections += 1
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._port)
        pair = {writer, up_writer}
        self._writers |= pair
        try:
            drops_responses, self.responses_to_drop = self.responses_to_drop > 0, max(0, self.responses_to_drop - 1)
            await asyncio.gather(self._pump(reader, up_writer, is_held=True), self._pump(up_reader, writer, drops_responses))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._writers -= pair
            for one in pair:
                one.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, drops_responses: bool = False, is_held: bool = False
    ) -> None:
        while (data := await reader.read(65536)) and not drops_responses:
            if is_held:
                await self.may_forward.wait()
            writer.write(data)
            await writer.drain()
        writer.transport.abort()
        raise ConnectionError


class SharedGateway(unittest.TestCase):
    """Test case with one gateway for all tests of the class."""

    gateway: Gateway

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.gateway = Gateway()
        cls.addClassCleanup(cls.gateway.close)


class ChannelTestCase(unittest.IsolatedAsyncioTestCase):
    """Test case with a fresh channel, without asyncio's debug mode, which is slow with thousands of messages."""

    async def asyncSetUp(self) -> None:
        asyncio.get_running_loop().set_debug(False)
        self.channel = f"c.{uuid.uuid4()}"


async def take(source, count: int) -> list:
    """The next `count` items of an iterator."""

    async def work() -> list:
        return [await source.__anext__() for _ in range(count)]

    return await asyncio.wait_for(work(), TEST_TIMEOUT_SECS)


async def with_timeout(work):
    return await asyncio.wait_for(work, TEST_TIMEOUT_SECS)


async def wait_until(condition) -> None:
    async def work() -> None:
        while not condition():
            await asyncio.sleep(0.01)

    await with_timeout(work())
