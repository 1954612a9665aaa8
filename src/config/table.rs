//! The list of all settings, against which the README is tested.

use super::schema::{Schema, default_of};

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// `limits.max_connections`; `NAME` and `[]` stand for what the operator chooses.
    pub path: String,
    /// As TOML writes it; `None` if it has no default.
    pub default: Option<String>,
}

/// Every setting, in the order of its path.
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

    /// The rows `| path | default | meaning |` of the document.
    fn documented() -> Vec<Setting> {
        let section =
            include_str!("../../README.md").split("## Settings").nth(1).and_then(|rest| rest.split("\n## ").next());
        let rows = section.unwrap_or("").lines().filter(|line| line.starts_with("| `"));
        rows.map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
            assert!(cells.len() == 3 && !cells[2].is_empty(), "{row}");
            let plain = |cell: &str| cell.trim_matches('`').to_owned();
            Setting { path: plain(cells[0]), default: Some(plain(cells[1])).filter(|text| text != "–") }
        })
        .collect()
    }

    #[test]
    fn the_document_has_every_setting_once_with_its_default_and_nothing_else() {
        let by_path = |mut settings: Vec<Setting>| {
            settings.sort_by(|a, b| a.path.cmp(&b.path));
            settings
        };
        let (documented, real) = (by_path(documented()), by_path(settings_table()));
        for setting in &real {
            assert!(documented.contains(setting), "not in the README: {setting:?}");
        }
        assert_eq!(documented, real);
    }
}
