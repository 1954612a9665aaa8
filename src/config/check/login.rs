//! Logins: the gateway's public URL, seal keys of cookies, providers.

use std::time::Duration;

use http::Uri;

use super::numbers::Numbers;
use super::{address, name, secret_file};
use crate::auth::login::{ClientSecret, LoginConfig, ProviderConfig};
use crate::auth::token::is_access_token_type;
use crate::config::Egress;
use crate::config::files::Files;
use crate::config::path::Path;
use crate::config::report::Report;
use crate::config::settings::{Issuer, IssuerLogin, Login, OneOrMany};
use crate::transport::config::{ListenerConfig, Role};

/// A longer session would outlast the user's memory of the login.
const MAX_SESSION_SECS: u64 = 30 * 86_400;

/// Takes `login` out of the issuers. Returns `None` if no issuer has it.
pub fn check(
    login: Login,
    issuers: &mut [Issuer],
    egress: Egress,
    listeners: &[ListenerConfig],
    report: &mut Report,
    files: &mut Files,
) -> Option<LoginConfig> {
    let Login { url, seal_keys, session_secs } = login;
    let path = Path::of("login");
    let session_secs = Numbers::new(path.clone(), report).secs("session_secs", session_secs, 1);
    if session_secs > Duration::from_secs(MAX_SESSION_SECS) {
        report.wrong(
            &path.key("session_secs"),
            session_secs.as_secs(),
            format_args!("must be at most {MAX_SESSION_SECS}"),
        );
    }
    let seal_keys = seal_keys
        .into_iter()
        .enumerate()
        .filter_map(|(index, file)| secret_file::seal_key(file, &path.key("seal_keys").index(index), report, files))
        .collect::<Vec<_>>();
    let providers = providers(issuers, egress, report, files);
    if providers.is_empty() {
        if let Some(url) = url {
            check_url(&url, &path.key("url"), report);
        }
        return None;
    }
    let (url, below) = public_url(url, listeners, &path, report).unwrap_or_default();
    if seal_keys.is_empty() {
        let text = "no key: sessions end with this process; generate one with `lastmile keygen --seal -o FILE`";
        report.warn(&path.key("seal_keys"), text);
    }
    if !listeners.iter().any(|listener| listener.roles.contains(&Role::Login)) {
        report.warn(&path, "no listener has the role \"login\", so logins are not possible");
    }
    Some(LoginConfig { url, path: below, seal_keys, session: session_secs, providers })
}

/// The URL of the gateway in browsers, with its path apart: `login.url`, and the `public_url` of the login's listeners.
fn public_url(
    url: Option<String>,
    listeners: &[ListenerConfig],
    path: &Path,
    report: &mut Report,
) -> Option<(String, String)> {
    let with_login = listeners.iter().filter(|listener| listener.roles.contains(&Role::Login));
    let mut public = with_login.filter_map(|listener| Some((&listener.name, listener.public_url.as_ref()?)));
    let Some((name, first)) = public.next() else {
        let url = url.and_then(|url| check_url(&url, &path.key("url"), report));
        if url.is_none() {
            let right = "must be the URL of this gateway in browsers, such as \"https://live.example.com\"; or set \
                         public_url of the listener with the role \"login\"";
            report.missing(path, "url", right);
        }
        return url.map(|url| (url, String::new()));
    };
    if let Some((other, _)) = public.find(|(_, url)| *url != first) {
        let why = format!("differs from that of listeners.{name}; a login has one URL");
        report.misplaced(&Path::of("listeners").key(other).key("public_url"), why);
    }
    if url.is_some_and(|url| url.trim_end_matches('/') != first.origin()) {
        report
            .misplaced(&path.key("url"), format!("must be left out, or be the origin of listeners.{name}.public_url"));
    }
    let setting = Path::of("listeners").key(name).key("public_url");
    check_url(first.origin(), &setting, report).map(|url| (url, first.path().to_owned()))
}

fn providers(issuers: &mut [Issuer], egress: Egress, report: &mut Report, files: &mut Files) -> Vec<ProviderConfig> {
    let mut providers: Vec<ProviderConfig> = Vec::new();
    for (index, issuer) in issuers.iter_mut().enumerate() {
        let path = Path::of("issuers").index(index);
        let Some(login) = issuer.login.take() else {
            if !issuer.known_audiences.is_empty() {
                report.misplaced(&path.key("known_audiences"), "only for an issuer with login");
            }
            continue;
        };
        if !issuer.discovery {
            report.missing(&path, "discovery", "must be true with login: discovery provides the URLs of the provider");
        }
        check_audience(issuer, login.client_id.as_deref(), &path, report);
        let path = path.key("login");
        if egress == Egress::None {
            report.misplaced(
                &path,
                "needs outgoing connections, and egress is \"none\"; let the page log in with the provider and send the token",
            );
        }
        let provider = provider(login, issuer, &path, report, files);
        if providers.iter().any(|other| other.name == provider.name) {
            report.wrong(&path.key("name"), provider.name.as_str(), "is used twice; each provider needs its own name");
        }
        providers.push(provider);
    }
    providers
}

/// ID tokens have the client id as `aud`. Without the `typ` of RFC 9068, an access token with the same `aud` cannot be
/// told from one.
fn check_audience(issuer: &Issuer, client_id: Option<&str>, path: &Path, report: &mut Report) {
    let is_shared = match (&issuer.audience, client_id) {
        (Some(OneOrMany::One(one)), Some(id)) => one == id,
        (Some(OneOrMany::Many(many)), Some(id)) => many.iter().any(|one| one == id),
        _ => false,
    };
    if is_shared && !issuer.typ.as_deref().is_some_and(is_access_token_type) {
        report.wrong(
            &path.key("audience"),
            client_id.unwrap_or_default(),
            "must not be the client_id of the login, which is the `aud` of ID tokens; or set typ = \"at+jwt\"",
        );
    }
}

fn provider(
    login: IssuerLogin,
    issuer: &Issuer,
    path: &Path,
    report: &mut Report,
    files: &mut Files,
) -> ProviderConfig {
    let (known_audiences, groups_claim) = (issuer.known_audiences.clone(), issuer.groups_claim.clone());
    let issuer = issuer.issuer.clone().unwrap_or_default();
    let IssuerLogin { client_id, client_secret_file, mut scopes, name } = login;
    let client_id = client_id.filter(|id| !id.is_empty()).unwrap_or_else(|| {
        report.missing(path, "client_id", "must be the client id of this gateway at the provider");
        String::new()
    });
    let client_secret = client_secret_file.and_then(|file| {
        let path = path.key("client_secret_file");
        let text = secret_file::text(file, &path, "must be a file with the client secret", report, files)?;
        Some(ClientSecret::new(text))
    });
    let is_scope =
        |scope: &String| !scope.is_empty() && scope.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\');
    if !scopes.iter().all(is_scope) {
        report.wrong(&path.key("scopes"), scopes.clone(), "must be scopes, such as [\"openid\", \"profile\"]");
    }
    if scopes.iter().any(|scope| scope == "offline_access") {
        let right = "must not hold \"offline_access\": the gateway keeps no refresh tokens";
        report.wrong(&path.key("scopes"), scopes.clone(), right);
    }
    if !scopes.iter().any(|scope| scope == "openid") {
        scopes.insert(0, "openid".to_owned());
    }
    let name = name.unwrap_or_else(|| host_of(&issuer));
    name::check(&name, &path.key("name"), report);
    ProviderConfig { name, issuer, client_id, client_secret, scopes, groups_claim, known_audiences }
}

fn host_of(issuer: &str) -> String {
    issuer.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_else(|| "provider".to_owned())
}

/// The URL has no path, because cookies apply to the whole host.
fn check_url(url: &str, path: &Path, report: &mut Report) -> Option<String> {
    let bare = url.strip_suffix('/').unwrap_or(url);
    if !address::is_origin(bare) || !bare.starts_with("http") {
        let right = "must be scheme and host (and port, if not the default) in lower case, such as \"https://live.example.com\"";
        report.wrong(path, url, right);
        return None;
    }
    let host = bare.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default();
    let bare_host = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback =
        host == "localhost" || bare_host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    if bare.starts_with("http://") && !is_loopback {
        report.wrong(path, url, "must be https; http is for loopback only");
        return None;
    }
    Some(bare.to_owned())
}
