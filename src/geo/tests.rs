//! Lookups in the project's own tiny databases, damaged files, and reloads.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::HeaderName;
use proptest::prelude::*;

use super::*;

/// A directory that is removed after the test.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("lastmile-geo-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Puts a file in place at once, as a careful operator does.
    fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        let fresh = self.0.join(format!("{name}.new"));
        std::fs::write(&fresh, bytes).unwrap();
        std::fs::rename(&fresh, &path).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn vector(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/geo").join(name)
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(vector(name)).unwrap()
}

fn open_all(files: Vec<PathBuf>) -> Result<GeoDb, GeoError> {
    GeoDb::open(GeoConfig { files, default_language: Language::English })
}

fn open(name: &str) -> GeoDb {
    open_all(vec![vector(name)]).unwrap()
}

fn client(address: &str) -> IpAddr {
    address.parse().unwrap()
}

/// City, region and country; `-` for an unknown field.
fn place(db: &GeoDb, address: &str, accept_language: &str) -> String {
    let languages = Languages::parse(Some(accept_language), Language::English);
    let Location { city, region, country } = db.lookup(client(address), &languages);
    [city, region, country].map(|name| name.unwrap_or("-".to_owned())).join("/")
}

#[test]
fn names_are_in_the_requested_language() {
    let db = open("test-city.mmdb");
    for address in ["192.0.2.1", "81.2.69.142", "2001:db8:2::7"] {
        for (language, expected) in [
            ("en", "London/England/United Kingdom"),
            ("fr-CA", "Londres/Angleterre/Royaume-Uni"),
            ("es", "Londres/Inglaterra/Reino Unido"),
            ("pt", "Londres/Inglaterra/Reino Unido"),
            // Each field falls back on its own.
            ("de", "London/England/Vereinigtes Königreich"),
            ("ja", "ロンドン/England/イギリス"),
            ("ru", "Лондон/England/Великобритания"),
            ("zh-CN", "London/England/英国"),
            ("zh-CN, fr;q=0.5", "Londres/Angleterre/英国"),
            ("zh-TW", "London/England/United Kingdom"),
            // English is excluded, so the field is absent.
            ("zh-CN, en;q=0", "-/-/英国"),
        ] {
            assert_eq!(place(&db, address, language), expected, "{address} {language}");
        }
    }
}

#[test]
fn locates_ipv4_and_ipv6() {
    let db = open("test-city.mmdb");
    assert_eq!(place(&db, "2001:db8:1::1", "en"), "Tokyo/Tokyo/Japan");
    assert_eq!(place(&db, "::ffff:192.0.2.1", "en"), "London/England/United Kingdom");
    assert_eq!(place(&db, "198.51.100.1", "ja"), "シアトル/ワシントン州/アメリカ");
    assert_eq!(place(&db, "216.160.83.56", "de"), "Milton/Washington/USA");
}

#[test]
fn unknown_fields_are_absent() {
    let db = open("test-city.mmdb");
    assert_eq!(place(&db, "198.51.100.200", "fr"), "-/-/Bhoutan");
    assert_eq!(place(&db, "10.0.0.1", "en"), "-/-/-");
    assert_eq!(place(&db, "2001:db8:ffff::1", "en"), "-/-/-");
    assert_eq!(place(&db, "::1", "en"), "-/-/-");
    // A name in Russian only, and a country with a code and no name.
    assert_eq!(place(&db, "203.0.113.1", "en"), "-/-/-");
    assert_eq!(place(&db, "203.0.113.1", "ru"), "Где-то/-/-");
}

#[test]
fn broken_record_loses_its_fields_only() {
    let db = open("test-city.mmdb");
    for address in ["203.0.113.65", "203.0.113.129", "203.0.113.193"] {
        assert_eq!(place(&db, address, "en"), "-/-/United States", "{address}");
    }
    assert_eq!(place(&db, "203.0.113.225", "en"), "-/-/-");
}

#[test]
fn reads_flat_layout() {
    let db = open("test-flat.mmdb");
    assert_eq!(place(&db, "192.0.2.1", "fr"), "London/England/GB");
    assert_eq!(place(&db, "198.51.100.1", "en"), "-/-/BT");
    assert_eq!(place(&db, "2001:db8:1::1", "en"), "Tokyo/Tokyo/JP");
}

#[test]
fn ipv6_in_ipv4_database_is_unknown() {
    let db = open("test-ipv4.mmdb");
    assert_eq!(place(&db, "192.0.2.1", "en"), "London/England/United Kingdom");
    assert_eq!(place(&db, "2001:db8:1::1", "en"), "-/-/-");
}

#[test]
fn first_database_with_record_is_used() {
    let db = open_all(vec![vector("test-ipv4.mmdb"), vector("test-flat.mmdb")]).unwrap();
    assert_eq!(place(&db, "192.0.2.1", "en"), "London/England/United Kingdom");
    assert_eq!(place(&db, "2001:db8:1::1", "en"), "Tokyo/Tokyo/JP");
}

#[test]
fn location_uses_request_headers() {
    let db = open("test-city.mmdb");
    let place = |address: &str, peer_is_trusted| {
        let lines =
            [("accept-language", "nl"), ("accept-language", "fr;q=0.5, ja"), ("x-client-geo-location", "CA,Paris")];
        let pair = |(name, value): (&'static str, &str)| (HeaderName::from_static(name), value.parse().unwrap());
        let Location { city, region, country } =
            db.locate(client(address), &lines.into_iter().map(pair).collect(), peer_is_trusted);
        [city, region, country].map(|name| name.unwrap_or("-".to_owned())).join("/")
    };
    assert_eq!(place("192.0.2.1", true), "ロンドン/Angleterre/イギリス");
    assert_eq!(place("198.51.100.200", true), "Paris/CA/Bhoutan");
    assert_eq!(place("198.51.100.200", false), "-/-/Bhoutan");
}

#[test]
fn error_names_the_file() {
    let directory = Directory::new();
    let error = |file: PathBuf| open_all(vec![file]).err().unwrap().to_string();
    assert!(error("/nowhere/city.mmdb".into()).contains("cannot read GeoIP database /nowhere/city.mmdb"));
    assert!(error(directory.0.clone()).contains("not a file"));
    for bytes in [&b""[..], b"<html>not found</html>", b"\xab\xcd\xefMaxMind.com"] {
        let error = error(directory.put("bad.mmdb", bytes));
        assert!(error.contains("bad.mmdb is not a valid MaxMind DB file"), "{error}");
    }
}

#[test]
fn truncated_file_is_refused() {
    let directory = Directory::new();
    for name in ["test-city.mmdb", "test-flat.mmdb", "test-ipv4.mmdb"] {
        let whole = bytes(name);
        for length in 0..whole.len() {
            assert!(open_all(vec![directory.put("cut.mmdb", &whole[..length])]).is_err(), "{name} cut at {length}");
        }
    }
}

#[test]
fn cyclic_tree_is_refused() {
    let directory = Directory::new();
    let mut looping = bytes("test-ipv4.mmdb");
    // Both records of the first node point to itself.
    looping[..6].fill(0);
    assert!(open_all(vec![directory.put("loop.mmdb", &looping)]).is_err());
}

/// A list that contains itself passes verification, which follows no pointers. Lookup must not exhaust the stack.
#[test]
fn recursive_list_is_ignored() {
    let mut looping = bytes("test-ipv4.mmdb");
    let address = client("192.0.2.1");
    let reader = maxminddb::Reader::from_source(looping.clone()).unwrap();
    let tree = reader.metadata().node_count as usize * usize::from(reader.metadata().record_size) / 4 + 16;
    let record = tree + reader.lookup(address).unwrap().offset().unwrap();
    let marker = b"\xAB\xCD\xEFMaxMind.com";
    let end = looping.windows(marker.len()).rposition(|bytes| bytes == marker).unwrap();
    // {"city": [<that list>]} after all data, and a pointer to it in place of the record.
    let pointer = |to: usize| [&[0x38][..], &u32::try_from(to - tree).unwrap().to_be_bytes()].concat();
    let map = [&b"\xE1\x44city\x01\x04"[..], &pointer(end + 6)].concat();
    looping.splice(end..end, map);
    looping.splice(record..record + 5, pointer(end));
    let database = Database::unverified(looping, Default::default()).unwrap();
    let small = std::thread::Builder::new().stack_size(256 * 1024);
    let place = small.spawn(move || database.lookup(address, &Languages::parse(None, Language::English)));
    assert_eq!(place.unwrap().join().unwrap(), Location::default());
}

#[test]
fn failed_reload_keeps_databases() {
    let directory = Directory::new();
    let file = directory.put("city.mmdb", &bytes("test-city.mmdb"));
    let db = open_all(vec![file.clone()]).unwrap();
    assert!(!db.reload().unwrap());

    directory.put("city.mmdb", &bytes("test-flat.mmdb"));
    assert!(db.reload().unwrap());
    assert_eq!(place(&db, "192.0.2.1", "fr"), "London/England/GB");

    directory.put("city.mmdb", &bytes("test-city.mmdb")[..1000]);
    assert!(matches!(db.reload(), Err(GeoError::Broken { .. })));
    std::fs::remove_file(&file).unwrap();
    assert!(matches!(db.reload(), Err(GeoError::Read { .. })));
    assert_eq!(place(&db, "192.0.2.1", "fr"), "London/England/GB");

    directory.put("city.mmdb", &bytes("test-city.mmdb"));
    assert!(db.reload().unwrap());
    assert_eq!(place(&db, "192.0.2.1", "fr"), "Londres/Angleterre/Royaume-Uni");
}

#[test]
fn lookups_continue_during_reload() {
    let directory = Directory::new();
    let versions = [bytes("test-city.mmdb"), bytes("test-flat.mmdb"), b"broken".to_vec()];
    let db = open_all(vec![directory.put("city.mmdb", &versions[0])]).unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let place = place(&db, "192.0.2.1", "en");
                    assert!(
                        ["London/England/United Kingdom", "London/England/GB"].contains(&place.as_str()),
                        "{place}"
                    );
                }
            });
        }
        for round in 0..300 {
            directory.put("city.mmdb", &versions[round % 3]);
            assert_eq!(db.reload().is_err(), round % 3 == 2);
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn damaged_files_do_not_panic(
        name in prop::sample::select(vec!["test-city.mmdb", "test-flat.mmdb", "test-ipv4.mmdb"]),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        address: std::net::IpAddr,
    ) {
        let mut bytes = bytes(name);
        for (index, byte) in damage {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        let Ok(database) = Database::unverified(bytes, Default::default()) else { return Ok(()) };
        // Lookups must not panic, whether verification accepts the file or not.
        let _ = database.verify();
        let known = ["192.0.2.1", "203.0.113.65", "2001:db8:1::1", "::"].map(client);
        for address in known.into_iter().chain([address]) {
            let _ = database.lookup(address, &Languages::parse(Some("ru"), Language::English));
        }
    }
}
