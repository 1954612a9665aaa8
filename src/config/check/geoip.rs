//! GeoIP databases. Their content is checked when they are opened.

use crate::config::files::{Files, open};
use crate::config::path::Path;
use crate::config::report::Report;
use crate::config::settings::{Geoip, OneOrMany};
use crate::config::suggest::one_of;
use crate::geo::{GeoConfig, Language};

const DATABASE_HINT: &str = "must be a city database in the MaxMind DB format; mmdb/fetch downloads a free one";

/// Returns `None` if `rooms.geoip` is off; then the files need not exist.
pub fn check(geoip: Geoip, is_on: bool, report: &mut Report, files: &mut Files) -> Option<GeoConfig> {
    let Geoip { database, default_language } = geoip;
    let path = Path::of("geoip");
    let language = Language::of_range(&default_language);
    if language.is_none() {
        let right = one_of(&default_language, &Language::ALL.map(Language::name));
        report.wrong(&path.key("default_language"), default_language, right);
    }
    if !is_on {
        return None;
    }
    let path = path.key("database");
    let is_list = matches!(database, OneOrMany::Many(_));
    let names = database.into_vec();
    if names.is_empty() {
        report.wrong(&path, names.clone(), DATABASE_HINT);
    }
    let mut checked = Vec::new();
    for (index, name) in names.into_iter().enumerate() {
        let file = files.locate(&name);
        if let Err(reason) = open(&file) {
            let path = if is_list { path.index(index) } else { path.clone() };
            report.wrong(&path, name, format_args!("{DATABASE_HINT} ({reason})"));
        }
        checked.push(file);
    }
    Some(GeoConfig { files: checked, default_language: language.unwrap_or(Language::English) })
}
