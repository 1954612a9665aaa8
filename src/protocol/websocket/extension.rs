//! Negotiation of permessage-deflate (RFC 7692 section 7.1) in `Sec-WebSocket-Extensions` (RFC 6455 section 9.1).

/// The header does not have the syntax of RFC 6455.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The answer to the first acceptable offer of permessage-deflate, always without context takeover. `None` if no offer
/// is acceptable.
pub fn accept_deflate<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Result<Option<&'static str>, Malformed> {
    let mut answer = None;
    for line in lines {
        let mut rest = Rest(line);
        // Empty list elements are ignored (RFC 9110 section 5.6.1.2).
        while rest.more() {
            let mut offer = Offer { is_deflate: rest.token()? == "permessage-deflate", ..Offer::default() };
            while rest.eat(b';') {
                let name = rest.token()?;
                let value = if rest.eat(b'=') { Some(rest.value()?) } else { None };
                offer.add_parameter(name, value.as_deref());
            }
            answer = answer.or_else(|| offer.answer());
            if !rest.at_end() && !rest.eat(b',') {
                return Err(Malformed);
            }
        }
    }
    Ok(answer)
}

/// One extension with its parameters.
#[derive(Default)]
struct Offer {
    is_deflate: bool,
    /// A parameter is unknown, repeated, or has an invalid value.
    is_invalid: bool,
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    /// The largest window that the gateway may use, as its power of two.
    server_max_window_bits: Option<u8>,
    client_max_window_bits: bool,
}

impl Offer {
    /// Section 7.1: an offer with an invalid parameter is declined; a later offer may be accepted.
    fn add_parameter(&mut self, name: &str, value: Option<&str>) {
        let is_invalid = match (name, value) {
            ("server_no_context_takeover", None) => std::mem::replace(&mut self.server_no_context_takeover, true),
            ("client_no_context_takeover", None) => std::mem::replace(&mut self.client_no_context_takeover, true),
            // A hint only: the gateway inflates any window.
            ("client_max_window_bits", None) => std::mem::replace(&mut self.client_max_window_bits, true),
            ("client_max_window_bits", Some(bits)) => {
                window_bits(bits).is_none() || std::mem::replace(&mut self.client_max_window_bits, true)
            }
            ("server_max_window_bits", Some(bits)) => match window_bits(bits) {
                Some(bits) => self.server_max_window_bits.replace(bits).is_some(),
                None => true,
            },
            _ => true,
        };
        self.is_invalid |= is_invalid;
    }

    fn answer(&self) -> Option<&'static str> {
        const ANSWER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
        const WITH_WINDOW: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
                                   server_max_window_bits=15";
        match self.server_max_window_bits {
            _ if !self.is_deflate || self.is_invalid => None,
            None => Some(ANSWER),
            // The shared compressed frame has the largest window.
            Some(15) => Some(WITH_WINDOW),
            Some(_) => None,
        }
    }
}

/// Section 7.1.2: 8 to 15, without a leading zero.
fn window_bits(text: &str) -> Option<u8> {
    let bits = text.parse().ok().filter(|bits| (8..=15).contains(bits))?;
    (!text.starts_with(['0', '+'])).then_some(bits)
}

/// The unread rest of a header line.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn skip_spaces(&mut self) {
        while let [b' ' | b'\t', rest @ ..] = self.0 {
            self.0 = rest;
        }
    }

    /// Whether another element of the list follows.
    fn more(&mut self) -> bool {
        while self.eat(b',') {}
        !self.at_end()
    }

    fn at_end(&mut self) -> bool {
        self.skip_spaces();
        self.0.is_empty()
    }

    fn eat(&mut self, expected: u8) -> bool {
        self.skip_spaces();
        match self.0 {
            [first, rest @ ..] if *first == expected => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    fn token(&mut self) -> Result<&'a str, Malformed> {
        self.skip_spaces();
        let length = self.0.iter().position(|byte| !is_token_byte(*byte)).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(length);
        self.0 = rest;
        std::str::from_utf8(token).ok().filter(|token| !token.is_empty()).ok_or(Malformed)
    }

    /// A token or a quoted string.
    fn value(&mut self) -> Result<String, Malformed> {
        if !self.eat(b'"') {
            return self.token().map(str::to_owned);
        }
        let mut value = String::new();
        loop {
            let (byte, rest) = match self.0 {
                [b'"', rest @ ..] => {
                    self.0 = rest;
                    return if value.is_empty() { Err(Malformed) } else { Ok(value) };
                }
                [b'\\', byte, rest @ ..] | [byte, rest @ ..] => (*byte, rest),
                [] => return Err(Malformed),
            };
            if !is_token_byte(byte) {
                return Err(Malformed);
            }
            value.push(char::from(byte));
            self.0 = rest;
        }
    }
}

/// RFC 9110 section 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLAIN: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    const WINDOW: &str =
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=15";

    fn check(lines: &[&str], expected: Result<Option<&str>, Malformed>) {
        assert_eq!(accept_deflate(lines.iter().map(|line| line.as_bytes())), expected, "{lines:?}");
    }

    #[test]
    fn accepts_offers() {
        for offer in [
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate;client_max_window_bits=8",
            "permessage-deflate ; client_max_window_bits=\"1\\5\"",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            "x-other; a=b, permessage-deflate",
            "permessage-deflate; server_max_window_bits=10, permessage-deflate",
            ", permessage-deflate,\t,",
            "permessage-deflate; mystery, \tpermessage-deflate; client_max_window_bits",
        ] {
            check(&[offer], Ok(Some(PLAIN)));
        }
        check(&["x-other", "permessage-deflate"], Ok(Some(PLAIN)));
        check(&["permessage-deflate; server_max_window_bits=15; client_max_window_bits"], Ok(Some(WINDOW)));
        check(&["permessage-deflate; server_max_window_bits=\"15\""], Ok(Some(WINDOW)));
    }

    #[test]
    fn declines_offers() {
        check(&[], Ok(None));
        for offer in [
            "",
            ", ,",
            "x-webkit-deflate-frame",
            "Permessage-Deflate",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=14",
            "permessage-deflate; server_max_window_bits=8",
            "permessage-deflate; server_max_window_bits=7",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=015",
            "permessage-deflate; server_max_window_bits=+15",
            "permessage-deflate; server_max_window_bits=15; server_max_window_bits=15",
            "permessage-deflate; client_max_window_bits=99999999999999999999",
            "permessage-deflate; client_max_window_bits; client_max_window_bits=15",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
            "permessage-deflate; __proto__",
        ] {
            check(&[offer], Ok(None));
        }
    }

    #[test]
    fn bad_syntax_is_malformed() {
        for line in [
            "permessage-deflate;",
            "permessage-deflate; =1",
            "permessage-deflate; server_max_window_bits=",
            "permessage-deflate; server_max_window_bits=\"15",
            "permessage-deflate; server_max_window_bits=\"\"",
            "permessage-deflate; server_max_window_bits=\"1 5\"",
            "permessage-deflate; server_max_window_bits=\"15\\",
            "permessage deflate",
            "permessage-deflate(",
            "permessage-deflate\u{e9}",
        ] {
            check(&[line], Err(Malformed));
            check(&["permessage-deflate", line], Err(Malformed));
        }
    }

    proptest! {
        #[test]
        fn parses_any_bytes(line in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = accept_deflate([&line[..]]);
        }

        #[test]
        fn any_offer_has_a_known_answer(
            line in "(permessage-deflate(; ?(client|server)_(max_window_bits|no_context_takeover)(=\"?[0-9]{1,2}\"?)?){0,5}[,; ]{0,2}){1,4}"
        ) {
            let answer = accept_deflate([line.as_bytes()]);
            prop_assert!(matches!(answer, Err(Malformed) | Ok(None | Some(PLAIN | WINDOW))), "{:?}", answer);
        }
    }
}
