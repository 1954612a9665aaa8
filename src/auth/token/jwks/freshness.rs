//! Freshness of fetched documents (RFC 9111), within fixed bounds.

use std::time::Duration;

use http::{HeaderMap, header};

const MIN_FRESHNESS_SECS: u64 = 60;
const MAX_FRESHNESS_SECS: u64 = 24 * 60 * 60;
const DEFAULT_FRESHNESS_SECS: u64 = 60 * 60;

/// The time until the next fetch: `max-age` minus `Age`, or an hour without `max-age`.
pub fn of(headers: &HeaderMap) -> Duration {
    let directives = || {
        let lines = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|line| line.to_str().ok());
        lines.flat_map(|line| line.split(',')).map(str::trim)
    };
    if directives()
        .any(|directive| directive.eq_ignore_ascii_case("no-store") || directive.eq_ignore_ascii_case("no-cache"))
    {
        return Duration::from_secs(MIN_FRESHNESS_SECS);
    }
    let max_age = directives().find_map(|directive| {
        let (name, value) = directive.split_once('=')?;
        name.eq_ignore_ascii_case("max-age").then(|| value.trim_matches('"').parse::<u64>().ok())?
    });
    let age = headers.get(header::AGE).and_then(|age| age.to_str().ok()?.parse::<u64>().ok()).unwrap_or(0);
    let secs = max_age.map_or(DEFAULT_FRESHNESS_SECS, |max_age| max_age.saturating_sub(age));
    Duration::from_secs(secs.clamp(MIN_FRESHNESS_SECS, MAX_FRESHNESS_SECS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn max_age_is_clamped() {
        for (cache_control, age, secs) in [
            (None, None, 3600),
            (Some("public, max-age=900"), None, 900),
            (Some("Max-Age=\"900\""), Some("100"), 800),
            (Some("max-age=900"), Some("9000"), 60),
            (Some("max-age=5"), None, 60),
            (Some("max-age=99999999999"), None, 86_400),
            (Some("max-age=99999999999999999999999"), None, 3600),
            (Some("max-age=x"), None, 3600),
            (Some("no-store, max-age=900"), None, 60),
            (Some("no-cache"), None, 60),
        ] {
            let mut headers = HeaderMap::new();
            cache_control.map(|value| headers.insert(header::CACHE_CONTROL, value.parse().unwrap()));
            age.map(|value: &str| headers.insert(header::AGE, value.parse().unwrap()));
            assert_eq!(of(&headers).as_secs(), secs, "{cache_control:?} {age:?}");
        }
    }
}
