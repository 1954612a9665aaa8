//! Language preferences of a client (`Accept-Language`, RFC 9110 section 12.5.4), out of the databases' languages.

use std::cmp::Reverse;

/// Most ranges of a header that are read.
const MAX_LANGUAGE_RANGES: usize = 32;

/// A language in which databases have names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    German,
    English,
    Spanish,
    French,
    Japanese,
    /// Brazilian Portuguese.
    Portuguese,
    Russian,
    /// Simplified Chinese.
    Chinese,
}

impl Language {
    pub const ALL: [Self; 8] = [
        Self::German,
        Self::English,
        Self::Spanish,
        Self::French,
        Self::Japanese,
        Self::Portuguese,
        Self::Russian,
        Self::Chinese,
    ];

    /// The language tag, as databases write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::German => "de",
            Self::English => "en",
            Self::Spanish => "es",
            Self::French => "fr",
            Self::Japanese => "ja",
            Self::Portuguese => "pt-BR",
            Self::Russian => "ru",
            Self::Chinese => "zh-CN",
        }
    }

    /// The language for a language range: English for `en-US`, Brazilian Portuguese for `pt` and `pt-PT`, simplified
    /// Chinese for `zh` and `zh-Hans-SG`, but none for `zh-TW` and `zh-Hant`.
    pub fn of_range(range: &str) -> Option<Self> {
        let (primary, rest) = range.split_once('-').map_or((range, ""), |(primary, rest)| (primary, rest));
        let primary_of = |language: &Self| language.name().split('-').next().unwrap_or("");
        let language = Self::ALL.into_iter().find(|language| primary_of(language).eq_ignore_ascii_case(primary))?;
        let has = |name: &str| rest.split('-').any(|subtag| subtag.eq_ignore_ascii_case(name));
        let is_traditional = !has("hans") && ["hant", "tw", "hk", "mo"].into_iter().any(has);
        Some(language).filter(|language| *language != Self::Chinese || !is_traditional)
    }

    /// Whether the range matches the language for an exclusion (`q=0`): the tag or its primary subtag (RFC 4647 section
    /// 3.3.1).
    fn is_in(self, range: &str) -> bool {
        let tag = self.name();
        let matches = |part: &str| part.eq_ignore_ascii_case(range);
        matches(tag) || tag.split('-').next().is_some_and(matches)
    }
}

/// Languages in the order of a client's preference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Languages(Vec<Language>);

impl Languages {
    /// Parses the header; several lines are joined with commas. Sorts by descending quality, then by the order of the
    /// header. `q=0` excludes a language; `*` matches every language that is not named. `default` is last, unless it is
    /// excluded. Malformed ranges are ignored.
    pub fn parse(accept_language: Option<&str>, default: Language) -> Self {
        let mut ranges: Vec<(&str, u16)> = accept_language
            .unwrap_or("")
            .split(',')
            .filter(|range| !is_blank(range))
            .take(MAX_LANGUAGE_RANGES)
            .filter_map(parse_range)
            .collect();
        // A stable sort preserves the order of the header.
        ranges.sort_by_key(|(_, quality)| Reverse(*quality));

        let is_named = |language: Language| {
            ranges.iter().any(|(range, _)| language.is_in(range) || Language::of_range(range) == Some(language))
        };
        let is_excluded = |language: Language| {
            let excludes = |(range, quality): &(&str, u16)| {
                *quality == 0 && (language.is_in(range) || *range == "*" && !is_named(language))
            };
            ranges.iter().any(excludes)
        };
        let mut preferred = Vec::with_capacity(Language::ALL.len());
        let mut add = |language| {
            if !preferred.contains(&language) && !is_excluded(language) {
                preferred.push(language);
            }
        };
        for (range, _) in ranges.iter().filter(|(_, quality)| *quality > 0) {
            match *range {
                "*" => {
                    let rest = std::iter::once(default).chain(Language::ALL);
                    rest.filter(|language| !is_named(*language)).for_each(&mut add);
                }
                range => Language::of_range(range).into_iter().for_each(&mut add),
            }
        }
        add(default);
        Self(preferred)
    }

    pub fn iter(&self) -> impl Iterator<Item = Language> {
        self.0.iter().copied()
    }
}

/// `range` or `range;q=0.5`, with the quality in thousandths.
fn parse_range(text: &str) -> Option<(&str, u16)> {
    let (range, weight) = match text.split_once(';') {
        Some((range, weight)) => (range, quality(weight)?),
        None => (text, 1000),
    };
    let range = trim(range);
    let is_subtag = |part: &str| (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric());
    (range == "*" || range.split('-').all(is_subtag)).then_some((range, weight))
}

/// `q=0.125` in thousandths (RFC 9110 section 12.4.2).
fn quality(text: &str) -> Option<u16> {
    let (name, value) = trim(text).split_once('=')?;
    let (whole, part) = value.split_once('.').unwrap_or((value, ""));
    if !name.eq_ignore_ascii_case("q") || part.len() > 3 || !part.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let thousandths = format!("{part:0<3}").parse().ok()?;
    match (whole, thousandths) {
        ("0", thousandths) => Some(thousandths),
        ("1", 0) => Some(1000),
        _ => None,
    }
}

fn is_blank(text: &str) -> bool {
    trim(text).is_empty()
}

fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(header: &str) -> String {
        let languages = Languages::parse(Some(header), Language::English);
        languages.iter().map(Language::name).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn default_without_preference() {
        assert_eq!(Languages::parse(None, Language::German).0, [Language::German]);
        for header in ["", " ", ",", " ,\t, ", "nl", "q=1", ";q=1", "en us", "x_y", "überlang", "abcdefghi"] {
            assert_eq!(order(header), "en", "{header:?}");
        }
    }

    #[test]
    fn sorts_by_quality_then_order() {
        assert_eq!(order("fr"), "fr en");
        assert_eq!(order("fr,ru"), "fr ru en");
        assert_eq!(order("fr, ru"), "fr ru en");
        assert_eq!(order("ru;q=0.9,fr;q=0.9"), "ru fr en");
        assert_eq!(order("ru;q=0.8, fr;q=0.9"), "fr ru en");
        assert_eq!(order("ru;q=0.001, fr;q=0.01, de;q=0.1, ja;q=1.000, es;q=0.999"), "ja es de fr ru en");
        assert_eq!(order("en;q=0.2, de \t;\tQ=0.3 ,fr;q=0.25"), "de fr en");
        assert_eq!(order("en-US,es;q=0.1,en;q=0.5,fr;q=0.2"), "en fr es");
        assert_eq!(order("de;q=0.1, fr;q=0.5, de-AT"), "de fr en");
    }

    #[test]
    fn quality_zero_excludes() {
        assert_eq!(order("de, fr;q=0"), "de en");
        assert_eq!(order("de, en;q=0"), "de");
        assert_eq!(order("de, en;q=0.000, fr;q=0.5"), "de fr");
        assert_eq!(order("pt;q=0, zh;q=0, ru"), "ru en");
        assert_eq!(order("de, *;q=0"), "de");
        assert_eq!(order("*;q=0"), "");
        // Excludes Austrian German, not German.
        assert_eq!(order("de, de-AT;q=0"), "de en");
    }

    #[test]
    fn star_matches_unnamed_languages() {
        assert_eq!(order("*"), "en de es fr ja pt-BR ru zh-CN");
        assert_eq!(order("fr, *;q=0.5"), "fr en de es ja pt-BR ru zh-CN");
        assert_eq!(order("*, en;q=0.5, ru;q=0"), "de es fr ja pt-BR zh-CN en");
        assert_eq!(order("en-US,es;q=0.1,en;q=0.5,*;q=0.2"), "en de fr ja pt-BR ru zh-CN es");
    }

    #[test]
    fn range_maps_to_language() {
        for (range, language) in [
            ("de-CH", "de"),
            ("EN-us", "en"),
            ("fr-CA", "fr"),
            ("es-419", "es"),
            ("ja-JP", "ja"),
            ("pt", "pt-BR"),
            ("pt-br", "pt-BR"),
            ("pt-PT", "pt-BR"),
            ("ru-RU", "ru"),
            ("zh", "zh-CN"),
            ("zh-cn", "zh-CN"),
            ("zh-Hans", "zh-CN"),
            ("zh-Hans-TW", "zh-CN"),
            ("zh-SG", "zh-CN"),
        ] {
            assert_eq!(order(&format!("{range}, *;q=0")), language, "{range}");
        }
        for range in ["zh-TW", "zh-HK", "zh-Hant", "zh-Hant-CN", "deu", "ge", "jp", "e", "x-en", "nl"] {
            assert_eq!(order(range), "en", "{range}");
        }
    }

    #[test]
    fn malformed_ranges_are_ignored() {
        for bad in ["q=2", "q=1.1", "q=-1", "q=", "q", "q=0.1234", "q=.5", "q=a", "q = 1", "p=1", "q=0.5;q=0.6"] {
            assert_eq!(order(&format!("fr;{bad}, de")), "de en", "{bad}");
        }
        assert_eq!(order("fr;q=1.,de;q=0."), "fr en");
    }

    #[test]
    fn number_of_ranges_is_bounded() {
        let header = format!("{}de, fr", "nl,".repeat(MAX_LANGUAGE_RANGES - 1));
        assert_eq!(order(&header), "de en");
        assert_eq!(order(&",".repeat(100_000)), "en");
    }

    proptest! {
        #[test]
        fn any_header_yields_unique_languages(header in "([a-z*-]{0,6}(;q=[0-9.]{0,5})?[ ,]{0,2}){0,40}|.{0,80}") {
            let languages: Vec<_> = Languages::parse(Some(&header), Language::Russian).iter().collect();
            for (index, language) in languages.iter().enumerate() {
                prop_assert!(!languages[..index].contains(language));
            }
        }
    }
}
