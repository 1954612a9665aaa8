//! Listeners on a Unix socket: whose place its file takes, and which clients may use it.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};

use crate::support::{Running, Scratch};

fn configure(scratch: &Scratch, lines: &str) {
    let address = scratch.path("gateway.sock").display().to_string();
    let text = format!("[listeners.a]\naddress = \"unix:{address}\"\nroles = [\"ops\"]\n{lines}\n");
    scratch.write("gateway.toml", &text);
}

fn start(scratch: &Scratch) -> Running {
    let running = Running::start(scratch.lastmile(["serve", "--config", "gateway.toml"]));
    running.stderr.wait_for("listening");
    running
}

#[test]
fn only_dead_socket_is_replaced() {
    let scratch = Scratch::new();
    configure(&scratch, "");
    let path = scratch.path("gateway.sock");
    let refused = || scratch.run(["serve", "--config", "gateway.toml"]).failed(1, "listeners.a: cannot listen on");

    fs::write(&path, "precious").unwrap();
    refused();
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    fs::remove_file(&path).unwrap();

    fs::create_dir_all(&path).unwrap();
    refused();
    fs::remove_dir(&path).unwrap();

    scratch.write("precious", "text");
    for target in ["precious", "nothing", "dead.sock"] {
        if target == "dead.sock" {
            drop(UnixListener::bind(scratch.path(target)).unwrap());
        }
        symlink(scratch.path(target), &path).unwrap();
        refused();
        assert!(fs::symlink_metadata(&path).unwrap().is_symlink(), "{target}");
        fs::remove_file(&path).unwrap();
    }
    assert!(fs::symlink_metadata(scratch.path("dead.sock")).unwrap().file_type().is_socket());

    // A socket with a listener is in use; a dead one is replaced.
    let living = UnixListener::bind(&path).unwrap();
    refused();
    UnixStream::connect(&path).unwrap();
    drop(living);
    let mut running = start(&scratch);
    UnixStream::connect(&path).unwrap();

    // The end removes the file only if it is still the gateway's.
    fs::remove_file(&path).unwrap();
    fs::write(&path, "of another").unwrap();
    running.signal("TERM");
    assert_eq!(running.wait(), Some(0));
    assert_eq!(fs::read_to_string(&path).unwrap(), "of another");
}

#[test]
fn socket_has_mode_and_group() {
    let scratch = Scratch::new();
    configure(&scratch, "mode = \"0660\"\ngroup = \"daemon\"");
    let mut running = start(&scratch);
    let metadata = fs::metadata(scratch.path("gateway.sock")).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o660);
    let groups = fs::read_to_string("/etc/group").unwrap();
    let daemon = groups.lines().find_map(|line| line.strip_prefix("daemon:x:")).unwrap();
    assert_eq!(metadata.gid().to_string(), daemon.split(':').next().unwrap());
    running.signal("TERM");
    assert_eq!(running.wait(), Some(0));
    assert!(!scratch.path("gateway.sock").exists());

    for (lines, says) in [
        ("mode = \"0888\"", "listeners.a.mode"),
        ("mode = \"rw\"", "listeners.a.mode"),
        ("mode = \"4755\"", "listeners.a.mode"),
        ("group = \"no such group\"", "listeners.a.group"),
        ("proxy_protocol = true", "listeners.a.proxy_protocol"),
    ] {
        configure(&scratch, lines);
        scratch.run(["check", "--config", "gateway.toml"]).failed(64, says);
    }
    let tcp = "[listeners.a]\naddress = \"127.0.0.1:0\"\nroles = [\"ops\"]\nmode = \"0660\"\n";
    scratch.write("gateway.toml", tcp);
    scratch.run(["check", "--config", "gateway.toml"]).failed(64, "only for a listener on a Unix socket");
}
