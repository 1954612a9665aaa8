//! Parameters of a query or a form, each given at most once.

use oauth2::url::form_urlencoded;

/// Further parameters are ignored; real requests have fewer.
const MAX_PARAMETERS: usize = 32;

pub struct Parameters(Vec<(String, String)>);

/// A parameter is given twice (RFC 6749 section 3.1 forbids that).
#[derive(Debug, PartialEq, Eq)]
pub struct Repeated;

impl Parameters {
    pub fn parse(text: &[u8]) -> Result<Self, Repeated> {
        let mut all: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(text).take(MAX_PARAMETERS) {
            if all.iter().any(|(known, _)| *known == name) {
                return Err(Repeated);
            }
            all.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(all))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}
