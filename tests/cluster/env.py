"""Processes of a test cluster: Redis with an append-only file, three gateways, and a partitionable network for one of them.

The first node runs in its own network namespace with two links, one for clients and one for Redis, so that each can fail
alone. Where namespaces are not allowed, a proxy in front of Redis stops forwarding instead.
"""

import asyncio
import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import signer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from processes import free_ports, wait_until

ROOT = pathlib.Path(__file__).resolve().parents[2]
REDIS_SERVER = os.environ.get("REDIS_SERVER", "redis-server")
BINARY = os.environ.get("LASTMILE", str(ROOT / "target/debug/lastmile"))
#: Ignores the proxies of the environment.
NO_PROXY_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
CONFIG = """
[listeners.public]
address = "{host}:{public}"
roles = ["subscribe", "pair"]
plaintext = true
[listeners.publish]
address = "{host}:{publish}"
roles = ["publish"]
plaintext = true
hosts = ["{host}:{publish}"]
[listeners.ops]
address = "{host}:{ops}"
roles = ["ops"]
plaintext = true
[publishers.market]
key = "{key}"
channels = ["*"]
[channel_defaults]
subscribers = "anyone"
backlog_messages = 20000
backlog_secs = 300
[engine]
kind = "redis"
url = "redis://{redis}"
cluster_key = "cluster-key"
[rooms]
resume_secs = 3
[drain]
window_secs = {window}
deadline_secs = {deadline}
[log]
format = "json"
filter = "info"
"""


def fast_temp_dir():
    """/dev/shm if it has room, else the default. The tests kill processes, not machines, and do not measure the latency of an
    fsync."""
    with contextlib.suppress(OSError):
        if os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free > 50 << 20:
            return "/dev/shm"
    return None


class Redis:
    def __init__(self, folder, hosts, fsync):
        self.folder, self.hosts, self.fsync = folder, hosts, fsync
        self.port, = free_ports(1)
        self.process = None

    def start(self):
        self.process = subprocess.Popen(
            [REDIS_SERVER, "--port", str(self.port), "--bind", *self.hosts, "--protected-mode", "no", "--save", "",
             "--appendonly", "yes", "--appendfsync", self.fsync, "--dir", str(self.folder)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        wait_until("redis", self.answers)

    def answers(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"redis ended with {self.process.returncode}")
        return self.send_command("PING").startswith("+PONG")

    def send_command(self, command):
        try:
            with socket.create_connection(("127.0.0.1", self.port), 2) as one:
                one.sendall(f"{command}\r\n".encode())
                return one.recv(65536).decode(errors="replace")
        except OSError:
            return ""

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait()


class Node:
    def __init__(self, name, folder, host, redis, key, window, command_prefix=()):
        self.binary, self.window, self.deadline = BINARY, window, window + 4
        self.name, self.host, self.command_prefix, self.log = name, host, list(command_prefix), open(folder / f"{name}.log", "ab")
        self.public, self.publish, self.ops = free_ports(3)
        self.config = folder / f"{name}.toml"
        self.config.write_text(CONFIG.format(**vars(self), redis=redis, key=key))
        self.process = None

    def start(self):
        command = [*self.command_prefix, self.binary, "serve", "--config", str(self.config)]
        began = time.monotonic()
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        wait_until(f"{self.name} to be ready", self.is_ready)
        return time.monotonic() - began

    def is_ready(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} ended with {self.process.returncode}; see {self.log.name}")
        return self.readiness() == 200

    def readiness(self):
        try:
            with NO_PROXY_OPENER.open(f"http://{self.host}:{self.ops}/readyz", timeout=2) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def kill(self, how=signal.SIGKILL):
        """Sends the signal, waits for the exit and returns how many seconds it took."""
        began = time.monotonic()
        if self.process:
            self.process.send_signal(how)
            self.process.wait(timeout=self.deadline + 60)
        return time.monotonic() - began

    def open_unresponsive_client(self):
        """Opens a WebSocket whose client reads nothing and answers nothing."""
        one = socket.create_connection((self.host, self.public), 30)
        one.sendall(f"GET /v1/subscribe HTTP/1.1\r\nHost: {self.host}:{self.public}\r\nConnection: Upgrade\r\n"
                    "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: lastmile.v1\r\n"
                    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode())
        if not one.recv(12).endswith(b"101"):
            raise RuntimeError(f"{self.name} refused a WebSocket")
        return one


class Namespace:
    """A network namespace with two links, one for clients and one for Redis, each in a /30 network."""

    description = "network namespace whose link to Redis drops all packets (ARP neighbours with wrong addresses)"
    UNREACHABLE_MAC = "02:00:00:00:00:99"

    def __init__(self):
        number = os.getpid()
        self.name = f"lm{number}"
        self.command_prefix = ["ip", "netns", "exec", self.name]
        # Derived from the process id, so that concurrent runs do not collide.
        network = f"10.{128 + number % 100}.{number // 100 % 256}"
        # Outer link, inner link, outer address, inner address.
        self.links = [(f"lm{number % 10_000_000}c", "clients", f"{network}.1", f"{network}.2"),
                      (f"lm{number % 10_000_000}r", "redis", f"{network}.5", f"{network}.6")]
        self.host, self.redis_host = self.links[0][3], self.links[1][2]

    def open(self):
        run("ip", "netns", "add", self.name)
        for ours, theirs, our_address, their_address in self.links:
            run("ip", "link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", self.name)
            run("ip", "addr", "add", f"{our_address}/30", "dev", ours)
            run("ip", "link", "set", ours, "up")
            run(*self.command_prefix, "ip", "addr", "add", f"{their_address}/30", "dev", theirs)
            run(*self.command_prefix, "ip", "link", "set", theirs, "up")
        run(*self.command_prefix, "ip", "link", "set", "lo", "up")

    async def start(self, redis_port):
        return f"{self.redis_host}:{redis_port}"

    def neighbours(self):
        """By direction: the namespace that holds the ARP entry, the neighbour's address, and the link."""
        ours, theirs, our_address, their_address = self.links[1]
        return {"to": (self.command_prefix, our_address, theirs), "from": ([], their_address, ours)}

    def cut(self, direction):
        """`to` drops packets to Redis, `from` drops packets from Redis, `both` drops all."""
        for name, (command_prefix, address, link) in self.neighbours().items():
            if direction in (name, "both"):
                run(*command_prefix, "ip", "neigh", "replace", address, "lladdr", self.UNREACHABLE_MAC, "dev", link, "nud", "permanent")

    def heal(self):
        for command_prefix, address, link in self.neighbours().values():
            subprocess.run([*command_prefix, "ip", "neigh", "del", address, "dev", link], stderr=subprocess.DEVNULL)

    def close(self):
        for ours, *_ in self.links:
            subprocess.run(["ip", "link", "del", ours], stderr=subprocess.DEVNULL)
        subprocess.run(["ip", "netns", "del", self.name], stderr=subprocess.DEVNULL)


class Proxy:
    """Fallback without a namespace: a proxy that stops reading and forwarding during a partition."""

    description = "TCP proxy that stops forwarding: network namespaces are not allowed here"
    host, redis_host, command_prefix = "127.0.0.1", "127.0.0.1", ()

    def open(self):
        self.forwarding = {"to": asyncio.Event(), "from": asyncio.Event()}
        self.heal()

    async def start(self, redis_port):
        self.redis_port = redis_port
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        return "127.0.0.1:%d" % self.server.sockets[0].getsockname()[1]

    async def serve(self, reader, writer):
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self.redis_port)
        except OSError:
            writer.close()
            return
        directions = [asyncio.create_task(self.forward(reader, upstream_writer, "to")),
                   asyncio.create_task(self.forward(upstream_reader, writer, "from"))]
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        for one in directions:
            one.cancel()
        writer.close()
        upstream_writer.close()

    async def forward(self, reader, writer, direction):
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self.forwarding[direction].wait()
                writer.write(data)
                await writer.drain()

    def cut(self, direction):
        for name, is_forwarding in self.forwarding.items():
            if direction in (name, "both"):
                is_forwarding.clear()

    def heal(self):
        for is_forwarding in self.forwarding.values():
            is_forwarding.set()

    def close(self):
        pass


def run(*command):
    subprocess.run(command, check=True, stderr=subprocess.PIPE)


@contextlib.asynccontextmanager
async def cluster_env(fsync, window=2):
    """Starts a cluster. Yields Redis, the nodes, the publishers' key, and the network of the first node."""
    with contextlib.ExitStack() as stack:
        folder, store = (pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lastmile-cluster-", dir=place)))
                         for place in (None, fast_temp_dir()))
        network = Namespace()
        stack.callback(lambda: network.close())
        try:
            network.open()
        except (OSError, subprocess.CalledProcessError):
            network.close()
            network = Proxy()
            network.open()
        redis = Redis(store, sorted({"127.0.0.1", network.redis_host}), fsync)
        stack.callback(redis.kill)
        redis.start()
        run(BINARY, "keygen", "--seal", "-o", str(folder / "cluster-key"))
        key = Ed25519PrivateKey.generate()
        public = signer.openssh_public_key(key)
        redis_address = f"127.0.0.1:{redis.port}"
        nodes = [Node("node-0", folder, network.host, await network.start(redis.port), public, window, network.command_prefix)]
        nodes += [Node(f"node-{at}", folder, "127.0.0.1", redis_address, public, window) for at in (1, 2)]
        for node in nodes:
            stack.callback(node.kill)
            await asyncio.to_thread(node.start)
        try:
            yield redis, nodes, key, network
        except BaseException:
            for node in nodes:
                tail = (folder / f"{node.name}.log").read_text(errors="replace").splitlines()[-8:]
                print(f"-- {node.name}", *tail, sep="\n", file=sys.stderr)
            raise
