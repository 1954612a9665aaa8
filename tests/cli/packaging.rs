//! The files of `docker/` name files, settings and commands that exist.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Scratch, root};

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn container_configuration_is_valid() {
    let scratch = Scratch::new();
    // As in the container, the keys lie beside the configuration; here there is one of our own.
    let text = read("docker/lastmile.toml");
    scratch.write("lastmile.toml", &text);
    scratch.run(["check", "--config", "lastmile.toml"]).ok();
}

#[test]
fn image_files_and_commands_exist() {
    let dockerfile = read("docker/Dockerfile");
    for line in dockerfile.lines().filter_map(|line| line.strip_prefix("COPY ")) {
        if line.starts_with("--from") {
            continue;
        }
        let words: Vec<_> = line.split_whitespace().collect();
        for source in &words[..words.len() - 1] {
            assert!(root().join(source).exists(), "{source}");
        }
    }
    let scratch = Scratch::new();
    for command in ["serve", "healthcheck"] {
        assert!(dockerfile.contains(&format!("\"{command}\"")), "{command}");
        scratch.run([command, "--help"]).ok();
    }
    assert!(dockerfile.contains("USER 65532"), "the container does not run as root");
    assert!(dockerfile.contains("--locked"));
}

#[test]
fn cluster_nodes_match_nginx() {
    let scratch = Scratch::new();
    let password = scratch.write("redis-password", "secret\n");
    let text = read("docker/cluster/lastmile.toml");
    assert!(text.contains("/run/secrets/redis-password"));
    let text = text.replace("/run/secrets/redis-password", password.to_str().unwrap());
    scratch.run(["keygen", "--seal", "-o", "cluster-key"]).ok();
    assert!(text.contains("/run/secrets/cluster-key"));
    let text = text.replace("/run/secrets/cluster-key", scratch.path("cluster-key").to_str().unwrap());
    scratch.write("lastmile.toml", &text);
    scratch.run(["check", "--config", "lastmile.toml"]).ok();

    let (nginx, compose) = (read("docker/cluster/nginx.conf"), read("docker/compose.cluster.yaml"));
    for node in ["node-1", "node-2", "node-3"] {
        assert!(compose.contains(&format!("  {node}:\n    <<: *node\n")), "{node}");
        for port in ["8080", "8081"] {
            assert!(nginx.contains(&format!("server {node}:{port} ")) && text.contains(&format!(":{port}\"")));
        }
    }
    for network in ["172.30.1.0/24", "172.30.2.0/24"] {
        assert!(text.contains(network) && compose.contains(&format!("subnet: {network}")), "{network}");
    }
}

#[test]
fn nginx_accepts_configuration() {
    let version = Command::new("nginx").arg("-v").output().expect("nginx, which `make test` installs");
    assert!(version.status.success());
    let scratch = Scratch::new();
    // Names of the containers mean nothing here, and so many files may not be opened.
    let text =
        (1..=3).fold(read("docker/cluster/nginx.conf"), |text, n| text.replace(&format!("node-{n}:"), "127.0.0.1:"));
    let text = text.replace("/tmp/nginx.pid", scratch.path("nginx.pid").to_str().unwrap());
    let file = scratch.write("nginx.conf", &text);
    let ran = Command::new("nginx").arg("-t").arg("-p").arg(scratch.path(".")).arg("-c").arg(file).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

/// The words behind the user's name: what it may do.
fn rights(text: &str, marker: &str, end: char) -> Vec<String> {
    let (_, rest) = text.split_once(marker).unwrap_or_else(|| panic!("no {marker}"));
    let (words, _) = rest.split_once(end).unwrap();
    words.split_whitespace().filter(|word| word.starts_with('+')).map(str::to_owned).collect()
}

#[test]
fn redis_configuration_and_user_rights() {
    let script = read("docker/cluster/redis.sh");
    let documented = rights(&read("docs/engines.md"), "ACL SETUSER gateway on", '`');
    assert!(documented.len() > 10);
    assert_eq!(rights(&script, "user gateway on", '\n'), documented);

    let scratch = Scratch::new();
    let password = scratch.write("redis-password", "a secret\n");
    let socket = scratch.path("redis.sock");
    let mut redis = Command::new("sh")
        .arg(root().join("docker/cluster/redis.sh"))
        .args(["--port", "0", "--unixsocket"])
        .arg(&socket)
        .env("REDIS_PASSWORD_FILE", password)
        .env("REDIS_DATA", scratch.path("."))
        .env("REDIS_CONFIG", root().join("docker/cluster/redis.conf"))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let answers = loop {
        if let Ok(mut stream) = UnixStream::connect(&socket) {
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            stream.write_all(b"PING\r\nAUTH gateway \"a secret\"\r\nPING\r\nFLUSHALL\r\n").unwrap();
            let mut lines = BufReader::new(stream).lines();
            break std::array::from_fn::<_, 4, _>(|_| lines.next().unwrap().unwrap());
        }
        assert!(Instant::now() < deadline && redis.try_wait().unwrap().is_none(), "redis did not start");
        std::thread::sleep(Duration::from_millis(20));
    };
    redis.kill().unwrap();
    redis.wait().unwrap();
    let [stranger, signed_in, allowed, forbidden] = answers;
    assert!(stranger.starts_with("-NOAUTH"), "{stranger}");
    assert_eq!((signed_in.as_str(), allowed.as_str()), ("+OK", "+PONG"));
    assert!(forbidden.starts_with("-NOPERM"), "{forbidden}");
}

#[test]
fn compose_mounts_existing_files() {
    let compose = read("docker/compose.yaml") + &read("docker/compose.cluster.yaml");
    let mounts = compose.lines().filter_map(|line| line.trim().strip_prefix("- ./"));
    let mut count = 0;
    for mount in mounts {
        let source = mount.split(':').next().unwrap();
        assert!(root().join("docker").join(source).exists(), "{source}");
        count += 1;
    }
    assert!(count > 0);
    assert!(compose.contains("dockerfile: docker/Dockerfile") && compose.contains("read_only: true"));
}

#[test]
fn systemd_unit_starts_and_reloads() {
    let unit = read("docker/lastmile.service");
    let value = |key: &str| {
        let prefix = format!("{key}=");
        let line = unit.lines().find_map(|line| line.strip_prefix(&prefix));
        line.unwrap_or_else(|| panic!("{key} is not set")).to_owned()
    };
    let start = value("ExecStart");
    let scratch = Scratch::new();
    let args: Vec<_> = start.split_whitespace().skip(1).collect();
    assert_eq!(args[0], "serve");
    for flag in args.iter().filter(|arg| arg.starts_with("--")) {
        assert!(scratch.run(["serve", "--help"]).ok().stdout.contains(flag), "{flag}");
    }
    assert!(value("ExecReload").contains("HUP"));
    // Longer than the longest drain, so that the manager never cuts it short.
    assert!(value("TimeoutStopSec").parse::<u32>().unwrap() > 15);
    for key in ["NoNewPrivileges", "MemoryDenyWriteExecute", "PrivateTmp", "ProtectKernelModules"] {
        assert_eq!(value(key), "yes", "{key}");
    }
    assert_eq!(value("ProtectSystem"), "strict");
}

#[test]
fn makefile_targets_exist() {
    for file in ["tests/run", ".ci/run", "tests/browser/demo.mjs"] {
        assert!(root().join(file).exists(), "{file}");
    }
    let makefile = read("Makefile");
    assert!(makefile.contains("tests/run") && read(".ci/run").contains("make test"));
    for file in ["LICENSE-MIT", "LICENSE-APACHE", "CHANGELOG.md", "keys/README.md", "mmdb/README.md"] {
        assert!(!read(file).is_empty(), "{file}");
    }
}
