//! The load generator: runs one scenario against a running server, and prints one JSON object per measurement.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use lastmile_bench::scenario::{self, Plan, SCENARIO_NAMES};
use lastmile_bench::sign::Key;
use lastmile_bench::stats::{Report, Server};
use lastmile_bench::sys;
use lastmile_bench::target::{Dialect, MIN_PAYLOAD_BYTES, Target};
use lastmile_bench::token::Issuer;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("jwks") => println!("{}", Issuer::default().jwks()),
        Some("keygen") => match arguments.get(1).map(|path| Key::write(Path::new(path))) {
            Some(Ok(key)) => println!("{}", key.openssh()),
            _ => usage(),
        },
        Some(scenario) if SCENARIO_NAMES.split(' ').any(|name| name == scenario) => {
            sys::raise_file_limit();
            if let Err(e) = measure(scenario, &arguments[1..]) {
                Report::default().text("scenario", scenario).text("error", &e.to_string()).print();
                return ExitCode::FAILURE;
            }
        }
        _ => usage(),
    }
    ExitCode::SUCCESS
}

fn measure(scenario: &str, options: &[String]) -> io::Result<()> {
    let mut plan = Plan {
        scenario: scenario.to_owned(),
        n: 100,
        secs: 2.0,
        rate: 75.0,
        publishers: 1,
        in_flight: 16,
        volume: 200_000_000,
        turns: false,
        target: Target {
            dialect: Dialect::Raw,
            port: 0,
            publish_port: 0,
            nodes: 1,
            key: None,
            tokens: Vec::new(),
            channels: 1,
            size: 128,
        },
        server: Server::of(std::process::id() as i32),
    };
    let (turns, options) = match options.split_first() {
        Some((first, rest)) if first == "--turns" => (true, rest),
        _ => (false, options),
    };
    plan.turns = turns;
    let (pairs, rest) = options.as_chunks::<2>();
    if !rest.is_empty() {
        usage();
    }
    let (mut pid, mut tokens) = (0, 0);
    for [name, value] in pairs {
        let target = &mut plan.target;
        match name.as_str() {
            "--n" => plan.n = number(value),
            "--secs" => plan.secs = number(value),
            "--rate" => plan.rate = number(value),
            "--publishers" => plan.publishers = number(value),
            "--in-flight" => plan.in_flight = number(value),
            "--volume" => plan.volume = number(value),
            "--pid" => pid = number(value),
            "--port" => target.port = number(value),
            "--nodes" => target.nodes = number(value),
            "--publish-port" => target.publish_port = number(value),
            "--channels" => target.channels = number(value),
            "--size" => target.size = number::<usize>(value).max(MIN_PAYLOAD_BYTES),
            "--tokens" => tokens = number(value),
            "--key" => target.key = Some(Key::read(Path::new(value))?),
            "--dialect" if value == "raw" => target.dialect = Dialect::Raw,
            "--dialect" if value == "lastmile" => target.dialect = Dialect::Lastmile,
            _ => usage(),
        }
    }
    if pid == 0
        || plan.target.port == 0
        || plan.n == 0
        || plan.publishers == 0
        || plan.target.channels == 0
        || plan.target.nodes == 0
    {
        usage();
    }
    if plan.target.publish_port == 0 {
        plan.target.publish_port = plan.target.port;
    }
    let issuer = Issuer::default();
    plan.target.tokens = (0..tokens).map(|i| issuer.token(i)).collect();
    plan.server = Server::of(pid);
    if !plan.server.alive() {
        return Err(io::Error::other(format!("no process {pid}")));
    }
    scenario::run(&plan)
}

fn number<T: std::str::FromStr>(value: &str) -> T {
    value.parse().unwrap_or_else(|_| usage())
}

fn usage() -> ! {
    eprintln!(
        "usage: load SCENARIO [--turns] --port PORT --pid PID [--publish-port PORT] [--dialect raw|lastmile] [--key FILE]\n\
         \x20           [--n N] [--secs S] [--rate PER_SECOND] [--size BYTES] [--channels C] [--publishers P]\n\
         \x20           [--in-flight K] [--volume BYTES] [--tokens T] [--nodes N]\n\
         \x20      load jwks | load keygen KEY_FILE\n\
         scenarios: {SCENARIO_NAMES}"
    );
    std::process::exit(64)
}
