//! The table `log`.

use tracing_subscriber::EnvFilter;

use crate::config::path::Path;
use crate::config::report::Report;
use crate::config::settings;
use crate::config::suggest::one_of;
use crate::ops::config::{LogConfig, LogFormat};

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

pub fn check(log: settings::Log, report: &mut Report) -> LogConfig {
    let settings::Log { format, filter } = log;
    let path = Path::of("log");
    let format = match format.as_str() {
        "auto" => LogFormat::Auto,
        "human" => LogFormat::Human,
        "json" => LogFormat::Json,
        other => {
            report.wrong(&path.key("format"), other, one_of(other, &["auto", "human", "json"]));
            LogFormat::Auto
        }
    };
    check_filter(&filter, &path.key("filter"), report);
    LogConfig { format, filter }
}

/// A part without `=` must be a level: the library would take any other word for a module to log at all levels.
fn check_filter(filter: &str, path: &Path, report: &mut Report) {
    let word = filter
        .split(',')
        .map(str::trim)
        .find(|part| !part.contains(['=', '[']) && !LEVELS.contains(&part.to_lowercase().as_str()));
    if let Some(word) = word {
        report.wrong(path, filter, one_of(word, &LEVELS));
    } else if let Err(error) = EnvFilter::try_new(filter) {
        report.wrong(
            path,
            filter,
            format_args!("must be a filter such as \"info\" or \"info,lastmile=debug\" ({error})"),
        );
    }
}
