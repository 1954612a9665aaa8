"""Ports and start of server processes, shared by the Python tests and benchmarks."""

import contextlib
import pathlib
import random
import socket
import time


def free_ports(count):
    """Ports below the ephemeral range, so that no outgoing connection takes one while its process is down."""
    ports = set()
    while len(ports) < count:
        port = random.randrange(11_000, 30_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.add(port)
    return list(ports)


def wait_until(description, condition, secs=90):
    deadline = time.monotonic() + secs
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {secs} s for {description}")
        time.sleep(0.02)


def wait_until_listening(process, ports, log, secs=90):
    """Waits until a process accepts connections on all `ports`. `log` is the file that it writes to."""

    def is_listening():
        if process.poll() is not None:
            raise RuntimeError(f"server ended with {process.returncode}: {pathlib.Path(log).read_text()[-600:]}")
        return all(map(accepts_connections, ports))

    wait_until(f"ports {ports}", is_listening, secs)


def accepts_connections(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
