//! The list of all settings; a test compares docs/reference/settings.md with it.

use super::schema::{Schema, default_of};

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// `limits.max_connections`; `NAME` stands for a chosen name, `[]` for an index.
    pub path: String,
    /// In TOML syntax; `None` if it has no default.
    pub default: Option<String>,
}

/// Returns every setting, ordered by path.
pub fn settings_table() -> Vec<Setting> {
    let leaves = Schema::of_settings().leaves();
    leaves
        .into_iter()
        .map(|path| Setting { default: default_of(&path).map(|value| value.to_string()), path: path.pattern() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = include_str!("../../docs/reference/settings.md");

    /// The rows `| setting | default | meaning |` of the document.
    fn documented() -> Vec<Setting> {
        let rows = DOCUMENT.lines().filter(|line| line.starts_with("| `"));
        rows.map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
            assert!(cells.len() == 3 && !cells[2].is_empty(), "{row}");
            let plain = |cell: &str| cell.trim_matches('`').to_owned();
            Setting { path: plain(cells[0]), default: Some(plain(cells[1])).filter(|text| text != "–") }
        })
        .collect()
    }

    /// One row stands for a setting of `channels[]` and of `channel_defaults`, with the default of the latter.
    fn with_merged_channels(settings: Vec<Setting>) -> Vec<Setting> {
        let (defaults, mut merged): (Vec<_>, Vec<_>) =
            settings.into_iter().partition(|setting| setting.path.starts_with("channel_defaults."));
        for Setting { path, default } in defaults {
            let path = path.replace("channel_defaults.", "channels[].");
            let rule = merged.iter_mut().find(|setting| setting.path == path);
            let rule = rule.unwrap_or_else(|| panic!("{path} exists in channel_defaults only"));
            assert_eq!(rule.default, None, "{path}");
            rule.default = default;
        }
        merged.push(Setting { path: "channel_defaults".to_owned(), default: None });
        merged
    }

    #[test]
    fn document_lists_every_setting_with_its_default() {
        let by_path = |mut settings: Vec<Setting>| {
            settings.sort_by(|a, b| a.path.cmp(&b.path));
            settings
        };
        let (documented, real) = (by_path(documented()), by_path(with_merged_channels(settings_table())));
        for setting in &real {
            assert!(documented.contains(setting), "not in docs/reference/settings.md: {setting:?}");
        }
        assert_eq!(documented, real);
    }
}
