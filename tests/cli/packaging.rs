//! What stands in `docker/` names files, settings and commands that exist.

use std::fs;

use crate::support::{Scratch, root};

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn the_container_configuration_is_good() {
    let scratch = Scratch::new();
    // As in the container, the keys lie beside the configuration; here there is one of our own.
    let text = read("docker/lastmile.toml");
    scratch.write("lastmile.toml", &text);
    scratch.run(["check", "--config", "lastmile.toml"]).ok();
}

#[test]
fn the_image_is_built_from_files_that_exist_and_runs_commands_that_exist() {
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
fn compose_mounts_what_exists() {
    let compose = read("docker/compose.yaml");
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
fn the_unit_starts_and_reloads_as_the_program_does() {
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
fn the_makefile_calls_what_exists() {
    for file in ["tests/run", ".ci/run", "tests/browser/demo.mjs", "tests/browser/package.json"] {
        assert!(root().join(file).exists(), "{file}");
    }
    let makefile = read("Makefile");
    assert!(makefile.contains("tests/run") && read(".ci/run").contains("make test"));
    for file in ["LICENSE-MIT", "LICENSE-APACHE", "CHANGELOG.md", "keys/README.md", "mmdb/README.md"] {
        assert!(!read(file).is_empty(), "{file}");
    }
}
