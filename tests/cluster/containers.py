"""Runs the services of a compose file without a container engine.

Each service has its own network namespace and root folder, with the networks, addresses, names, mounts, users and privileges
of the file. The programs of this machine replace those of the images. Needs root; all services end with the parent process.
"""

import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import time

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
DIE_WITH_PARENT = ["setpriv", "--pdeathsig", "KILL"]


def run(*command):
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def parse_image(dockerfile):
    """User, folder, command and health check of the last stage."""
    text = dockerfile.read_text()
    words = dict(line.split(maxsplit=1) for line in text[text.rindex("\nFROM"):].splitlines() if " " in line)
    return {
        "user": words["USER"].split(":")[0],
        "folder": words["WORKDIR"],
        "command": json.loads(words["ENTRYPOINT"]) + json.loads(words["CMD"]),
        "health": json.loads(words["HEALTHCHECK"].partition("CMD ")[2]),
    }


# Defaults of the images that a compose file does not name.
IMAGES = {
    "lastmile": parse_image(ROOT / "docker/Dockerfile"),
    "redis": {"user": "redis", "folder": "/data"},
    "nginx": {"user": "root", "folder": "/", "command": ["nginx", "-g", "daemon off;"],
              "writable": ["/tmp", "/var/lib/nginx", "/var/log/nginx"]},
}


class Composition:
    """All services of one file. `mount_overrides` maps mount targets to other sources."""

    def __init__(self, file, folder, programs, mount_overrides):
        self.file, self.folder, self.programs, self.mount_overrides = file, folder, programs, mount_overrides
        compose = yaml.safe_load(file.read_text())
        self.secrets = compose.get("secrets", {})
        self.networks = {}
        for number, (name, options) in enumerate(compose["networks"].items()):
            subnets = ((options or {}).get("ipam") or {}).get("config") or [{"subnet": f"172.29.{number}.0/24"}]
            self.networks[name] = subnets[0]["subnet"].rpartition(".")[0]
        self.services = {name: Service(self, name, options) for name, options in compose["services"].items()}
        self.create_networks()

    def create_networks(self):
        """Creates one bridge for each network. This side gets the first address, like the host of a container engine."""
        run("ip", "link", "set", "lo", "up")
        for network, prefix in self.networks.items():
            run("ip", "link", "add", network, "type", "bridge")
            run("ip", "addr", "add", f"{prefix}.1/24", "dev", network)
            run("ip", "link", "set", network, "up")
        taken = {address for service in self.services.values() for address in service.addresses.values()}
        for number, service in enumerate(self.services.values()):
            for network, prefix in self.networks.items():
                if network in service.addresses:
                    free = (f"{prefix}.{host}" for host in range(2, 255) if f"{prefix}.{host}" not in taken)
                    service.addresses[network] = service.addresses[network] or next(free)
                    taken.add(service.addresses[network])
                    service.attach_network(network, f"{network}-{number}")

    def __getitem__(self, name):
        return self.services[name]

    def close(self):
        for service in self.services.values():
            service.close()


class Service:
    def __init__(self, composition, name, options):
        self.composition, self.name, self.options = composition, name, options
        self.image = IMAGES[options["image"].partition(":")[0]]
        networks = options["networks"]
        self.addresses = {network: (networks[network] or {}).get("ipv4_address") if isinstance(networks, dict) else None
                          for network in networks}
        self.root = composition.folder / name
        self.root.mkdir()
        self.log = open(composition.folder / f"{name}.log", "ab")
        self.process = None
        # Seconds until a container engine would kill it.
        self.grace = float(options.get("stop_grace_period", "10s").removesuffix("s"))
        # Keeps the namespace alive while the service is not running.
        self.network = subprocess.Popen([*DIE_WITH_PARENT, "unshare", "--net", "sleep", "infinity"], stdin=subprocess.DEVNULL)
        our_namespace, namespace = "/proc/self/ns/net", f"/proc/{self.network.pid}/ns/net"
        while os.readlink(our_namespace) == os.readlink(namespace):
            time.sleep(0.01)
        self.enter = ["nsenter", f"--net={namespace}"]
        run(*self.enter, "ip", "link", "set", "lo", "up")

    def attach_network(self, network, link):
        run("ip", "link", "add", link, "type", "veth", "peer", "name", network, "netns", str(self.network.pid))
        run("ip", "link", "set", link, "master", network, "up")
        run(*self.enter, "ip", "addr", "add", f"{self.addresses[network]}/24", "dev", network)
        run(*self.enter, "ip", "link", "set", network, "up")

    def mounts(self):
        """Yields (source, target, whether it is read-only)."""
        folder = self.composition.file.parent
        for mount in self.options.get("volumes", []):
            source, target, *mode = mount.split(":")
            if not source.startswith("."):
                source = self.composition.folder / f"volume-{source}"
                source.mkdir(exist_ok=True)
                shutil.chown(source, self.image["user"])
            yield self.composition.mount_overrides.get(target, folder / source), target, mode == ["ro"]
        for secret in self.options.get("secrets", []):
            target = f"/run/secrets/{secret}"
            yield self.composition.mount_overrides.get(target, folder / self.composition.secrets[secret]["file"]), target, True

    def host_entries(self):
        """Lines of /etc/hosts: the services that share a network, with their address in the first shared one."""
        for name, other in self.composition.services.items():
            shared = [address for network, address in other.addresses.items() if network in self.addresses]
            if shared:
                yield f"{shared[0]} {name}"

    def script(self, command):
        """A shell script that builds the root folder and executes the command in it."""
        root = shlex.quote(str(self.root))
        hosts = "\n".join(["127.0.0.1 localhost", *self.host_entries()])
        # /usr of the machine, for its programs and libraries; nothing else of the machine is visible.
        lines = ["set -e", "mount --make-rprivate /", f"mount -t tmpfs -o mode=755 none {root}", f"cd {root}",
                 "mkdir usr dev proc etc etc/ssl tmp app",
                 "for name in bin sbin lib lib64; do [ ! -e /$name ] || ln -s usr/$name $name; done",
                 "mount --bind /usr usr", "mount -o remount,bind,ro usr", "mount --rbind /dev dev", "mount --rbind /proc proc",
                 "cp /etc/passwd /etc/group /etc/nsswitch.conf /etc/ld.so.cache etc", f"echo {shlex.quote(hosts)} >etc/hosts",
                 f"mkdir -p .{self.image['folder']}"]
        for name, program in self.composition.programs.items():
            lines += [f"touch app/{name}", f"mount --bind {shlex.quote(str(program))} app/{name}"]
        for folder in self.image.get("writable", []):
            lines += [f"mkdir -p .{folder}", f"mount -t tmpfs -o mode=1777 none .{folder}"]
        for source, target, is_read_only in self.mounts():
            make = f"mkdir -p .{target}" if pathlib.Path(source).is_dir() else f"mkdir -p .{os.path.dirname(target)}; touch .{target}"
            lines += [make, f"mount --bind {shlex.quote(str(source))} .{target}"]
            if is_read_only:
                lines.append(f"mount -o remount,bind,ro .{target}")
        if self.options.get("read_only"):
            lines.append("mount -o remount,ro .")
        privileges = [*DIE_WITH_PARENT, "--reuid", self.options.get("user", self.image["user"]), "--clear-groups"]
        if "ALL" in self.options.get("cap_drop", []):
            privileges += ["--bounding-set", "-all", "--inh-caps", "-all"]
        if "no-new-privileges:true" in self.options.get("security_opt", []):
            privileges.append("--no-new-privs")
        in_namespace = f'cd {self.image["folder"]} && PATH=/app:/usr/sbin:/usr/bin:/bin exec "$@"'
        lines.append(f"exec chroot . /usr/bin/{shlex.join([*privileges, '/bin/sh', '-c', in_namespace, 'sh', *command])}")
        return "\n".join(lines)

    def in_namespace(self, command):
        return [*self.enter, "unshare", "--mount", "sh", "-c", self.script(command)]

    def start(self):
        command = self.options.get("command") or self.image["command"]
        self.process = subprocess.Popen(self.in_namespace(command), stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
                                        start_new_session=True)

    def is_healthy(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} ended with {self.process.returncode}")
        return self.succeeds(self.image["health"])

    def succeeds(self, command):
        """Whether a command succeeds in the environment of this service."""
        return subprocess.run(self.in_namespace(command), stdin=subprocess.DEVNULL, capture_output=True).returncode == 0

    def stop(self, signum=signal.SIGTERM):
        """Returns the exit status, and how many seconds the exit took."""
        began = time.monotonic()
        self.process.send_signal(signum)
        return self.process.wait(self.grace + 60), time.monotonic() - began

    def close(self):
        if self.process:
            # The process group includes its children.
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait()
        self.network.kill()
        self.network.wait()
        self.log.close()
