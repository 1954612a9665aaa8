//! The path of this gateway to which a login returns.

use percent_encoding::percent_decode_str;

/// Longest path, in bytes.
const MAX_PATH_BYTES: usize = 1024;
/// Rounds of percent-decoding. An honest path no longer changes after so many.
const MAX_DECODE_ROUNDS: usize = 4;

/// A path of this gateway as browsers interpret it: not on another host, and not of the login itself.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct ReturnTo(String);

impl ReturnTo {
    /// The page of a gateway under `path`, which may be empty.
    pub fn home(path: &str) -> Self {
        Self(format!("{path}/"))
    }

    /// `path` is the one under which browsers reach this gateway.
    pub fn parse(text: &str, path: &str) -> Option<Self> {
        // Proxies may decode a path, so every stage of decoding must be a path of this gateway.
        let mut stage = text.to_owned();
        for _ in 0..MAX_DECODE_ROUNDS {
            if !is_own_path(&stage, path) {
                return None;
            }
            let decoded = percent_decode_str(&stage).decode_utf8().ok()?.into_owned();
            if decoded == stage {
                let is_plain = text.len() <= MAX_PATH_BYTES && text.bytes().all(|byte| byte.is_ascii_graphic());
                return is_plain.then(|| Self(text.to_owned()));
            }
            stage = decoded;
        }
        None
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Browsers treat `\` as `/`, drop tabs and newlines, and read `//host` as another host (WHATWG URL).
fn is_own_path(text: &str, mounted_at: &str) -> bool {
    let path = text.split(['?', '#']).next().unwrap_or_default();
    let has_dots = path.split('/').any(|segment| segment == "." || segment == "..");
    let below = path.strip_prefix(mounted_at).unwrap_or(path);
    let is_login = [path, below].iter().any(|path| path.to_ascii_lowercase().starts_with("/v1/auth/"));
    text.starts_with('/')
        && !path.contains("//")
        && !text.contains('\\')
        && !text.chars().any(char::is_control)
        && !has_dots
        && !is_login
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_only_own_paths() {
        for good in
            ["/", "/app", "/app/a-b_c.html?x=1&y=%20z#part", "/%C3%A9", "/a?next=https://other.example/x", "/~a/@b"]
        {
            assert_eq!(ReturnTo::parse(good, "").map(|it| it.0).as_deref(), Some(good));
        }
        for bad in [
            "",
            "app",
            "//evil.com",
            "///evil.com",
            "/\\evil.com",
            "\\/evil.com",
            "\\\\evil.com",
            "/\t/evil.com",
            "/\n/evil.com",
            "\t//evil.com",
            " /app",
            "/app x",
            "/%2fevil.com",
            "/%2Fevil.com",
            "/%5cevil.com",
            "/%5Cevil.com",
            "/%252fevil.com",
            "/%25252fevil.com",
            "/%2525252525252fevil.com",
            "/%09/evil.com",
            "/%0d%0aLocation:%20https://evil.com",
            "/%00",
            "/..//evil.com",
            "/a/../../evil.com",
            "/%2e%2e//evil.com",
            "/./x",
            "/a//evil.com",
            "https://evil.com",
            "https:evil.com",
            "http://live.example.com@evil.com/",
            "javascript:alert(1)",
            "data:text/html,x",
            "/é",
            "/%ff",
            "/\u{2028}",
            "/v1/auth/login",
            "/V1/auth/login?return_to=/v1/auth/login",
            "/v1/%61uth/logout",
        ] {
            assert_eq!(ReturnTo::parse(bad, ""), None, "{bad:?}");
        }
        assert_eq!(ReturnTo::parse(&format!("/{}", "a".repeat(MAX_PATH_BYTES)), ""), None);
        assert_eq!(ReturnTo::parse("/live/v1/auth/login", "/live"), None);
        assert!(ReturnTo::parse("/live/app", "/live").is_some() && ReturnTo::parse("/other", "/live").is_some());
    }
}
