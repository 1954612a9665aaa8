//! Databases of places. Whether they are whole is found out when they are opened.

use crate::auth::GeoConfig;
use crate::config::files::{Files, open};
use crate::config::path::Path;
use crate::config::report::Report;
use crate::config::settings::{Geoip, OneOrMany};
use crate::config::suggest::one_of;
use crate::geo::Language;

const A_DATABASE: &str = "must be a database of cities in the MaxMind DB format; mmdb/fetch brings a free one";

/// `None` if places are off; then the files need not be there.
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
        report.wrong(&path, names.clone(), A_DATABASE);
    }
    let mut checked = Vec::new();
    for (index, name) in names.into_iter().enumerate() {
        let file = files.locate(&name);
        if let Err(reason) = open(&file) {
            let path = if is_list { path.index(index) } else { path.clone() };
            report.wrong(&path, name, format_args!("{A_DATABASE} ({reason})"));
        }
        checked.push(file);
    }
    Some(GeoConfig { files: checked, default_language: language.unwrap_or(Language::English) })
}
