//! The schema of the settings, derived from samples of [`Settings`], so it cannot drift from them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::path::{Path, Segment};
use super::settings::{
    Basic, Channel, ChannelDefaults, Engine, Geoip, Issuer, IssuerLogin, Listener, Login, OneOrMany,
    OneOrManyRequirements, Publisher, Requirements, Rooms, Settings, Subscribers, Tls,
};

/// Placeholder in samples for a name that the operator chooses.
pub const NAME: &str = "NAME";

/// Valid types of one value; several if a setting has several forms.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    pub string: bool,
    /// A non-negative whole number.
    pub integer: bool,
    pub boolean: bool,
    pub list: Option<Box<Schema>>,
    pub table: Option<Table>,
}

#[derive(Clone, Debug)]
pub enum Table {
    Fields(BTreeMap<String, Schema>),
    /// Names that the operator chooses, all with the same content.
    Named(Box<Schema>),
}

impl Schema {
    pub fn of_settings() -> Self {
        let mut schema = Self::default();
        for form in 0..4 {
            schema.add(&sample(form));
        }
        schema
    }

    /// Whether a variable or flag can set it: a scalar, or a list of strings.
    pub fn is_leaf(&self) -> bool {
        self.string || self.integer || self.boolean || self.list.as_ref().is_some_and(|item| item.string)
    }

    /// Returns every setting, with `NAME` for chosen names and `[0]` for indexes.
    pub fn leaves(&self) -> Vec<Path> {
        let mut leaves = Vec::new();
        self.collect_leaves(&Path::root(), &mut leaves);
        leaves
    }

    pub fn expected(&self) -> String {
        let list = match &self.list {
            Some(item) if item.string => Some("a list of strings"),
            Some(_) => Some("a list of tables"),
            None => None,
        };
        [
            self.string.then_some("a string"),
            self.integer.then_some("a whole number, not negative"),
            self.boolean.then_some("true or false"),
            list,
            self.table.is_some().then_some("a table"),
        ]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(" or ")
    }

    fn collect_leaves(&self, path: &Path, leaves: &mut Vec<Path>) {
        if self.is_leaf() {
            leaves.push(path.clone());
        } else if let Some(item) = &self.list
            // If a table may stand alone or in a list, its settings are listed once.
            && self.table.is_none()
        {
            item.collect_leaves(&path.index(0), leaves);
        }
        match &self.table {
            Some(Table::Fields(fields)) => {
                fields.iter().for_each(|(key, field)| field.collect_leaves(&path.key(key), leaves));
            }
            Some(Table::Named(content)) => content.collect_leaves(&path.key(NAME), leaves),
            None => {}
        }
    }

    fn add(&mut self, sample: &Value) {
        match sample {
            Value::Null => {}
            Value::Bool(_) => self.boolean = true,
            Value::Number(_) => self.integer = true,
            Value::String(_) => self.string = true,
            Value::Array(items) => {
                let item = self.list.get_or_insert_default();
                items.iter().for_each(|sample| item.add(sample));
            }
            Value::Object(fields) => self.add_table(fields),
        }
    }

    fn add_table(&mut self, fields: &Map<String, Value>) {
        let named = fields.contains_key(NAME);
        let empty = || if named { Table::Named(Box::default()) } else { Table::Fields(BTreeMap::new()) };
        match self.table.get_or_insert_with(empty) {
            Table::Named(content) => fields.values().for_each(|sample| content.add(sample)),
            Table::Fields(known) => {
                for (key, sample) in fields {
                    known.entry(key.clone()).or_default().add(sample);
                }
            }
        }
    }
}

/// Returns the default of a setting of [`Schema::leaves`], if it has one.
pub fn default_of(path: &Path) -> Option<Value> {
    let defaults = Settings {
        listeners: [(NAME.to_owned(), Listener::default())].into(),
        publishers: [(NAME.to_owned(), Publisher::default())].into(),
        issuers: vec![Issuer { login: Some(IssuerLogin::default()), ..Issuer::default() }],
        channels: vec![Channel::default()],
        ..Settings::default()
    };
    let mut value = &json!(defaults);
    for segment in path.segments() {
        value = match segment {
            Segment::Key(key) => value.get(key)?,
            Segment::Index(index) => value.get(index)?,
        };
    }
    Some(value.clone()).filter(|value| !value.is_null())
}

/// Returns settings with every value set. The forms 0 to 3 together cover settings with several types.
fn sample(form: usize) -> Value {
    let text = || Some("text".to_owned());
    let list = || vec!["text".to_owned()];
    let one_or_many = || if form == 1 { OneOrMany::One("text".to_owned()) } else { OneOrMany::Many(list()) };
    // A claim has any scalar value.
    let claims = [(NAME, json!("text")), ("NAME2", json!(1)), ("NAME3", json!(true))];
    let requirements = |group| Requirements {
        issuer: text(),
        scope: text(),
        group: Some(group),
        claim: claims.clone().map(|(name, value)| (name.to_owned(), value)).into(),
    };
    let both = || [OneOrMany::One("text".to_owned()), OneOrMany::Many(list())];
    let tables = if form == 3 {
        OneOrManyRequirements::Many(both().map(&requirements).into())
    } else {
        OneOrManyRequirements::One(requirements(one_or_many()))
    };
    let subscribers =
        if form == 0 { Subscribers::Word("text".to_owned()) } else { Subscribers::Matching(tables.clone()) };
    let listener = Listener {
        address: text(),
        roles: list(),
        tls: Some(Tls { certificate: text(), key: text() }),
        origins: list(),
        hosts: list(),
        public_url: text(),
        mode: text(),
        group: text(),
        channels: Some(list()),
        default_endpoint_permissions: list(),
        auth_tokens: list(),
        scope: text(),
        subscribers: text(),
        ..Listener::default()
    };
    let publisher = Publisher {
        key: text(),
        sha256: text(),
        basic: Some(Basic { username: text(), password_argon2: text() }),
        channels: list(),
        not_after: text(),
        ..Publisher::default()
    };
    let issuer = Issuer {
        issuer: text(),
        name: text(),
        audience: Some(one_or_many()),
        known_audiences: list(),
        jwks_file: text(),
        jwks_url: text(),
        jwks_max_age_secs: Some(1),
        algorithms: list(),
        typ: text(),
        channels: Some(list()),
        login: Some(IssuerLogin { client_id: text(), client_secret_file: text(), scopes: list(), name: text() }),
        ..Issuer::default()
    };
    let channel_defaults = ChannelDefaults { subscribers, deny: Some(tables), ..ChannelDefaults::default() };
    json!(Settings {
        egress_private_hosts: list(),
        egress_ca: text(),
        trusted_proxies: list(),
        revocations_file: text(),
        listeners: [(NAME.to_owned(), listener)].into(),
        publishers: [(NAME.to_owned(), publisher)].into(),
        issuers: vec![issuer],
        login: Login { url: text(), seal_keys: list(), ..Login::default() },
        channels: vec![Channel::of(text(), channel_defaults.clone())],
        channel_defaults,
        rooms: Rooms {
            max_exchanges: Some(1),
            conn_lifespan_secs: Some(1),
            max_rooms_per_address: Some(1),
            ..Rooms::default()
        },
        engine: Engine {
            path: text(),
            ledger: text(),
            url: Some(one_or_many()),
            sentinel: text(),
            ca: text(),
            password_file: text(),
            cluster_key: Some(one_or_many()),
            ..Engine::default()
        },
        geoip: Geoip { database: one_or_many(), ..Geoip::default() },
        ..Settings::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_cover_every_setting() {
        fn check(schema: &Schema, path: &Path) {
            assert!(!schema.expected().is_empty(), "{path} is not set in any sample");
            if let Some(item) = &schema.list {
                check(item, &path.index(0));
            }
            match &schema.table {
                Some(Table::Fields(fields)) => fields.iter().for_each(|(key, field)| check(field, &path.key(key))),
                Some(Table::Named(content)) => check(content, &path.key(NAME)),
                None => {}
            }
        }
        check(&Schema::of_settings(), &Path::root());
    }
}
