//! The README's ten minutes, command by command, as a newcomer would type them.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use test_support::{TEST_TIMEOUT, TempDir};

/// A command that the walk leaves running. Dropping it ends the command.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The folder in which a newcomer types.
struct Folder(TempDir);

impl Folder {
    /// Runs lines of the README with the binary under test as `lastmile`.
    fn shell(&self, lines: &str) -> Command {
        let mut command = Command::new("bash");
        let binary = env!("CARGO_BIN_EXE_lastmile");
        command.current_dir(self.0.path()).arg("-euc").arg(format!("lastmile() {{ '{binary}' \"$@\"; }}\n{lines}"));
        command
    }

    fn run(&self, lines: &str) -> String {
        let output = self.shell(lines).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{lines}\n{out}{err}");
        out.into_owned()
    }

    /// `exec` replaces the shell, so that ending the child ends the command.
    fn start(&self, lines: &str) -> Running {
        let lines = lines.trim().replace("lastmile ", &format!("exec '{}' ", env!("CARGO_BIN_EXE_lastmile")));
        Running(self.shell(&lines).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap())
    }
}

/// The fenced blocks of a section, without the indentation of its list.
fn blocks(readme: &str, section: &str, language: &str) -> Vec<String> {
    let section = readme.split(section).nth(1).unwrap().split("\n## ").next().unwrap();
    let fence = format!("```{language}\n");
    let raw = section.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap());
    raw.map(|block| block.lines().map(str::trim_start).collect::<Vec<_>>().join("\n")).collect()
}

#[test]
fn ten_minutes_from_a_key_to_a_message() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let ports = [(); 3].map(|()| test_support::free_port());
    let moved = |text: &str| {
        let text = text.replace("127.0.0.1:8080", &format!("127.0.0.1:{}", ports[0]));
        let text = text.replace("127.0.0.1:8081", &format!("127.0.0.1:{}", ports[1]));
        text.replace("127.0.0.1:8082", &format!("127.0.0.1:{}", ports[2]))
    };
    let section = "## Ten minutes";
    let shell = blocks(&readme, section, "sh");
    let [_build, keygen, issuer, check_and_serve, subscribe, publish] = &shell[..] else {
        panic!("the walk has different steps than this test: {shell:#?}");
    };
    let [toml] = &blocks(&readme, section, "toml")[..] else {
        panic!("the walk does not have exactly one configuration")
    };

    let folder = Folder(TempDir::new());
    let printed = folder.run(keygen);
    let key = printed.lines().find_map(|line| line.split('"').find(|part| part.starts_with("ssh-ed25519 ")));
    let key = key.unwrap_or_else(|| panic!("no public key in: {printed}"));
    folder.run(issuer);
    let toml = moved(toml).replace("ssh-ed25519 AAAA… market-data", key);
    folder.0.write("lastmile.toml", &toml);

    let (check, serve) = check_and_serve.trim().split_once('\n').unwrap();
    assert!(folder.run(check).contains("prices"));
    let _gateway = folder.start(serve);
    let is_ready = || {
        folder
            .shell(&moved("lastmile healthcheck --url http://127.0.0.1:8082/readyz"))
            .output()
            .unwrap()
            .status
            .success()
    };
    let deadline = Instant::now() + TEST_TIMEOUT;
    while !is_ready() {
        assert!(Instant::now() < deadline, "the gateway is not ready");
    }

    // The subscriber asks for the backlog, so the order of the two commands does not matter.
    let token = subscribe.trim().rsplit_once('\n').unwrap();
    let listen = format!("{} --backlog 10 --count 1", moved(token.1));
    let minted = folder.run(&format!("{}\necho \"$LASTMILE_TOKEN\"", token.0));
    folder.run(&moved(publish));
    let mut listening = folder.start(&format!("export LASTMILE_TOKEN={}\n{listen}", minted.trim()));
    let mut line = String::new();
    BufReader::new(listening.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains(r#""publisher":"market-data","data":{"usd": 64000.5}"#), "{line}");
}
