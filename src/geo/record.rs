//! A field of a database record: names by language, a text, or an unusable value.
//!
//! Supports the nested layout (GeoIP2, GeoLite2 and DB-IP: `city.names.en`, `subdivisions[0].names.en`) and the flat
//! one (ip-location-db: `city`, `state1`, `country_code`). Only damaged bytes are an error.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{Language, Languages};

/// Longest name, in bytes. Longer ones are ignored.
const MAX_NAME_BYTES: usize = 256;

#[derive(Default)]
pub struct Field<'a> {
    names: Names<'a>,
    text: Option<&'a str>,
}

/// A name for each language, in the order of [`Language::ALL`].
#[derive(Default)]
struct Names<'a>([Option<&'a str>; Language::ALL.len()]);

/// A text; `None` for another type.
struct Text<'a>(Option<&'a str>);

impl Field<'_> {
    /// The name in the first language with one, otherwise the text.
    pub fn name(&self, languages: &Languages) -> Option<String> {
        let named = languages.iter().find_map(|language| self.names.0[language as usize]);
        named.or(self.text).map(str::to_owned)
    }
}

impl<'de> Deserialize<'de> for Field<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyVisitor(Level::Field)).map(Any::into_field)
    }
}

/// A list element.
struct Element<'a>(Field<'a>);

impl<'de> Deserialize<'de> for Element<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyVisitor(Level::Element)).map(|any| Self(any.into_field()))
    }
}

impl<'de> Deserialize<'de> for Names<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_any(AnyVisitor(Level::Names))? {
            Any::Names(names) => Ok(names),
            _ => Ok(Names::default()),
        }
    }
}

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_any(AnyVisitor(Level::Text))? {
            Any::Text(text) => Ok(Text(usable(text))),
            _ => Ok(Text(None)),
        }
    }
}

fn usable(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty() && text.len() <= MAX_NAME_BYTES)
}

/// Nesting level, which determines the maps and lists that are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Field,
    /// A field in a list. Lists in it are ignored, so that a list that contains itself ends.
    Element,
    Names,
    Text,
}

enum Any<'a> {
    Text(&'a str),
    Field(Field<'a>),
    Names(Names<'a>),
    Nothing,
}

impl<'a> Any<'a> {
    fn into_field(self) -> Field<'a> {
        match self {
            Self::Text(text) => Field { text: usable(text), ..Field::default() },
            Self::Field(field) => field,
            Self::Names(_) | Self::Nothing => Field::default(),
        }
    }
}

/// Accepts every type, so that an unexpected one does not affect other fields.
struct AnyVisitor(Level);

impl<'de> Visitor<'de> for AnyVisitor {
    type Value = Any<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Any::Text(text))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut field = Field::default();
        let mut names = Names::default();
        while let Some(key) = map.next_key::<&str>()? {
            let language = Language::ALL.into_iter().find(|language| language.name() == key);
            match (self.0, key, language) {
                (Level::Field | Level::Element, "names", _) => field.names = map.next_value()?,
                (Level::Names, _, Some(language)) => names.0[language as usize] = map.next_value::<Text>()?.0,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(match self.0 {
            Level::Field | Level::Element => Any::Field(field),
            Level::Names => Any::Names(names),
            Level::Text => Any::Nothing,
        })
    }

    /// Only the first element is used: the largest subdivision comes first.
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let first = if self.0 == Level::Field { list.next_element::<Element>()? } else { None };
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(first.map_or(Any::Nothing, |Element(field)| Any::Field(field)))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Any::Nothing)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Any::Nothing)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Any::Nothing)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Self::Value, E> {
        Ok(Any::Nothing)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Any::Nothing)
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Self::Value, E> {
        Ok(Any::Nothing)
    }
}
