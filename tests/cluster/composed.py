#!/usr/bin/env python3
"""Tests the compose files in docker/ without a container engine (containers.py).

In the cluster of three gateways, Redis and nginx, all clients connect through nginx. Under load, each node is restarted in
turn, one node is killed, and Redis is killed: every acknowledged publication reaches every subscriber once and in order.
Exits with 1 at the first failure. Needs root and namespaces; reports if they are not allowed.

    composed.py [--subscribers 60] [--rate 5]
"""

import argparse
import asyncio
import os
import pathlib
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from containers import ROOT, Composition
from env import BINARY, signer, wait_until
from run import Run

NODES = ("node-1", "node-2", "node-3")


class ClientEndpoint:
    """Address and ports that all clients connect to."""

    def __init__(self, service):
        self.host, self.public, self.publish = service.addresses["outside"], 8080, 8081


def configure(folder, key, config):
    """The operator's files: a password, a publisher's key, and the configuration with its examples uncommented."""
    folder = folder / "operator"
    folder.mkdir()
    password, keys, gateway_config = folder / "redis-password", folder / "keys", folder / "lastmile.toml"
    password.write_text(secrets.token_hex(32))
    cluster_key = folder / "cluster-key"
    subprocess.run([BINARY, "keygen", "--seal", "-o", str(cluster_key)], check=True, stdout=subprocess.DEVNULL)
    # As the operator does for the user of the containers; the folder is private.
    cluster_key.chmod(0o644)
    shutil.copytree(ROOT / "keys", keys)
    (keys / "market-data.pub").write_text(signer.openssh_public_key(key))
    text = config.read_text()
    for name in (r"\[publishers.market-data\]", r"\[\[channels\]\]"):
        text, count = re.subn(rf"(?m)^# {name}\n(?:# .+\n)+", lambda found: found[0].replace("# ", "", 1).replace("\n# ", "\n"), text)
        assert count == 1, name
    gateway_config.write_text(text)
    return {"/run/secrets/redis-password": password, "/run/secrets/cluster-key": cluster_key,
            "/etc/lastmile/keys": keys, "/etc/lastmile/lastmile.toml": gateway_config}


async def wait_until_healthy(service):
    await asyncio.to_thread(wait_until, f"{service.name} to be healthy", service.is_healthy)


async def one_gateway(args, services, key):
    gateway = services["lastmile"]
    gateway.start()
    await wait_until_healthy(gateway)
    run = Run(args, None, [ClientEndpoint(gateway)] * 3, key, None)
    await run.start()
    await run.settle()
    status, took = await asyncio.to_thread(gateway.stop)
    run.expect(status == 0, f"ended with {status}")
    run.expect_within(took, gateway.grace, "drained for")
    print(f"one gateway: {run.summary()}, drained in {took:.1f} s", flush=True)
    await end(run)


async def three_nodes(args, services, key):
    began = time.monotonic()
    nodes = [services[name] for name in NODES]
    for name in ("redis", *NODES, "nginx"):
        services[name].start()
        if name in NODES:
            await wait_until_healthy(services[name])
    front = ClientEndpoint(services["nginx"])
    redis = services["redis"].addresses["engine"]
    can_reach_redis = lambda service: service.succeeds(["bash", "-c", f"exec 3<>/dev/tcp/{redis}/6379"])
    if [can_reach_redis(service) for service in (services["nginx"], nodes[0])] != [False, True]:
        raise RuntimeError("Redis must be reachable from the gateways and not from nginx")

    run = Run(args, None, [front] * 3, key, None)
    await run.start()
    took = time.monotonic() - began
    print(f"{args.subscribers} subscribers and 3 publishers through nginx, all connected after {took:.1f} s", flush=True)

    async def settle(step, figures):
        await run.all_connected(run.reconnect_timeout_secs)
        await run.wait_for_acks()
        settled = await run.settle()
        print(f"{step}: {figures}; all delivered {settled:.2f} s after the last answer", flush=True)

    figures = []
    for node in nodes:
        status, took = await asyncio.to_thread(node.stop)
        run.expect(status == 0, f"{node.name} ended with {status}")
        run.expect_within(took, node.grace, f"{node.name} drained for")
        node.start()
        await wait_until_healthy(node)
        await run.all_connected(run.reconnect_timeout_secs)
        figures.append(f"{took:.1f}")
    closes = dict(run.record.closes)
    run.expect(set(closes) == {4000}, f"connections ended with {closes}")
    await settle("rolling restart", f"drained in {', '.join(figures)} s, closes {closes}")

    await asyncio.to_thread(nodes[1].stop, signal.SIGKILL)
    await settle("kill -9 of a node", f"closes {dict(run.record.closes)}")
    nodes[1].start()

    await asyncio.to_thread(services["redis"].stop, signal.SIGKILL)
    refused = time.monotonic()
    await run.until("refusals", lambda: all(one.first_refusal_after(refused) for one in run.publishers))
    services["redis"].start()
    await settle("kill -9 of Redis", f"refused during the outage {dict(run.record.refused)}")
    for node in nodes:
        await wait_until_healthy(node)

    print(run.summary(), f"in {time.monotonic() - began:.0f} s")
    await end(run)


async def end(run):
    for task in run.tasks:
        task.cancel()
    await asyncio.gather(*run.tasks, return_exceptions=True)
    if run.record.failures:
        raise RuntimeError("\n".join(run.record.failures))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subscribers", type=int, default=60)
    parser.add_argument("--rate", type=float, default=5, help="publications a second of each of three publishers")
    args = parser.parse_args()
    files = {"compose.yaml": ("lastmile.toml", one_gateway), "compose.cluster.yaml": ("cluster/lastmile.toml", three_nodes)}
    if (file := os.environ.get("COMPOSED")) not in files:
        # Each file runs in its own namespaces, so that nothing leaks or is left behind.
        namespace_command = ["unshare", "--net", "--mount"]
        needs = "mount --make-rprivate / && mount -t tmpfs none /tmp && ip link add one type bridge && ip link add two type veth"
        probe = subprocess.run([*namespace_command, "sh", "-c", needs], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if probe.returncode:
            print(f"skipped: namespaces are not allowed here: {probe.stderr.strip()}")
            return
        command = [*namespace_command, sys.executable, *sys.argv]
        sys.exit(any(subprocess.run(command, env={**os.environ, "COMPOSED": file}).returncode for file in files))
    config, scenario = files[file]
    key = Ed25519PrivateKey.generate()
    with tempfile.TemporaryDirectory(prefix="lastmile-composed-") as folder:
        folder = pathlib.Path(folder)
        folder.chmod(0o755)
        docker = ROOT / "docker"
        overrides = configure(folder, key, docker / config)
        services = Composition(docker / file, folder, {"lastmile": BINARY}, overrides)
        # The publishers of this test are outside of the composition, and name its address.
        endpoint = ClientEndpoint(services.services.get("nginx") or services["lastmile"])
        gateway_config = overrides["/etc/lastmile/lastmile.toml"]
        text = gateway_config.read_text().replace("https://publish.example.com", f"http://{endpoint.host}:{endpoint.publish}")
        gateway_config.write_text(text)
        try:
            asyncio.run(scenario(args, services, key))
        except (RuntimeError, subprocess.SubprocessError) as error:
            for name in services.services:
                tail = (folder / f"{name}.log").read_text(errors="replace").splitlines()[-12:]
                print(f"-- {name}", *tail, sep="\n", file=sys.stderr)
            sys.exit(f"FAILED: {error}")
        finally:
            services.close()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
