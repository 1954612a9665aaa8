"""The servers of a benchmark run: command, configuration and the load generator's options for each.

A server runs as a process group of its own on free loopback ports and is ended by its id after the measurement.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

BENCHES = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(BENCHES.parent / "tests"))
from processes import free_ports, wait_until, wait_until_listening

LOAD_BIN = BENCHES / "load" / "target" / "release"
NCHAN_MODULE = pathlib.Path("/usr/lib/nginx/modules/ngx_nchan_module.so")


def lastmile_path():
    return pathlib.Path(os.environ.get("LASTMILE", BENCHES.parent / "target" / "release" / "lastmile"))


class Server:
    """A kind of server. `options` are the load generator's options for it."""

    name = ""
    description = ""
    scenarios = None  # None: all

    def missing_reason(self):
        """The reason why the server cannot be started here, or None."""

    def command(self, directory, port, publish_port, variant):
        raise NotImplementedError

    def options(self, directory, publish_port, variant):
        return []


class Floor(Server):
    description = "one epoll thread and the unavoidable system calls"

    def __init__(self, name, *flags):
        self.name, self.flags = name, flags

    def command(self, directory, port, publish_port, variant):
        return [LOAD_BIN / "floor", "--port", port, *self.flags]


class Tungstenite(Server):
    name = "tungstenite"
    description = "tokio-tungstenite, a task and a queue for each client, one thread"

    def command(self, directory, port, publish_port, variant):
        return [LOAD_BIN / "peer-tungstenite", port]


class Ws(Server):
    name = "ws"
    description = "npm ws, simple broadcast (sends no pings)"

    def missing_reason(self):
        if not shutil.which("node"):
            return "needs node"
        if not (BENCHES / "peers/ws/node_modules").is_dir():
            return "run benches/setup"

    def command(self, directory, port, publish_port, variant):
        return ["node", BENCHES / "peers/ws/server.js", port]


class Uws(Server):
    name = "uws"
    description = "native µWebSockets (C++), its own publish/subscribe"

    def missing_reason(self):
        if not (BENCHES / "peers/uws/target/server").exists():
            return "run benches/setup (needs g++)"

    def command(self, directory, port, publish_port, variant):
        return [BENCHES / "peers/uws/target/server", port]


class Nchan(Server):
    name = "nchan"
    description = "nginx with nchan, one worker"
    scenarios = {"paced", "flood", "alone", "idle", "connect", "churn", "post", "publish", "sleeper"}

    def missing_reason(self):
        if not shutil.which("nginx") or not NCHAN_MODULE.exists():
            return "run benches/setup --apt"

    def command(self, directory, port, publish_port, variant):
        conf = (BENCHES / "peers/nchan/nginx.conf.in").read_text()
        for key, value in {"@DIR@": directory, "@PORT@": port, "@MODULE@": NCHAN_MODULE}.items():
            conf = conf.replace(key, str(value))
        (directory / "nginx.conf").write_text(conf)
        return ["nginx", "-p", directory, "-c", directory / "nginx.conf", "-e", directory / "error.log"]


class Lastmile(Server):
    name = "lastmile"
    description = "the gateway, release build, its own protocol and signatures"

    def missing_reason(self):
        if not lastmile_path().exists():
            return f"no {lastmile_path()}: cargo build --release, or set LASTMILE"

    def command(self, directory, port, publish_port, variant):
        key = directory / "bench.key"
        public = subprocess.check_output([LOAD_BIN / "load", "keygen", key], text=True).strip()
        (directory / "jwks.json").write_bytes(subprocess.check_output([LOAD_BIN / "load", "jwks"]))
        subscribers = "" if variant == "token" else 'subscribers = "anyone"'
        config = f"""
[listeners.public]
address = "127.0.0.1:{port}"
roles = ["subscribe", "pair"]

[listeners.publish]
address = "127.0.0.1:{publish_port}"
roles = ["publish"]

[publishers.bench]
key = "{public}"
channels = ["*"]

[[issuers]]
issuer = "https://issuer.bench"
audience = "lastmile"
jwks_file = "{directory}/jwks.json"
algorithms = ["ES256"]

[[channels]]
match = "bench.*"
{subscribers}

# The peers of a room send as fast as they can.
[limits]
max_commands_per_second = 10000000

[rooms]
max_exchanges = 0
conn_lifespan_secs = 3600
"""
        (directory / "lastmile.toml").write_text(config)
        return [lastmile_path(), "serve", "--config", directory / "lastmile.toml"]

    def options(self, directory, publish_port, variant):
        return ["--dialect", "lastmile", "--publish-port", publish_port, "--key", directory / "bench.key"]


SERVERS = {
    server.name: server
    for server in [
        Floor("floor"),
        Floor("floor-batch", "--batch"),
        Floor("floor-pings", "--ping-secs", "25"),
        Floor("floor-verify", "--verify"),
        Lastmile(),
        Uws(),
        Nchan(),
        Ws(),
        Tungstenite(),
    ]
}


@contextlib.contextmanager
def running(server, cores, variant=None):
    """Starts a server pinned to `cores`; yields the load generator's options, with its process id."""
    with tempfile.TemporaryDirectory(prefix="lastmile-bench-") as name:
        directory = pathlib.Path(name)
        port, publish_port = free_ports(2)
        command = [str(part) for part in server.command(directory, port, publish_port, variant)]
        log = open(directory / "log", "w")
        process = subprocess.Popen(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        try:
            wait_until_listening(process, [port], log.name, secs=20)
            time.sleep(0.2)
            options = ["--port", port, "--pid", process.pid, *server.options(directory, publish_port, variant)]
            yield [str(option) for option in options]
        finally:
            terminate(process)
            log.close()


def terminate(process):
    """Ends the server's process group, workers included."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=3)
            return
