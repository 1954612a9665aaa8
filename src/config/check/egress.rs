//! Outgoing connections. With `egress = "none"`, every setting that would open one is refused.

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;

use crate::auth::fetch::FetchConfig;
use crate::config::Egress;
use crate::config::files::{Files, read_text};
use crate::config::path::Path;
use crate::config::report::Report;
use crate::config::settings::Settings;
use crate::config::suggest::one_of;

/// Lists every setting that makes the gateway open a connection, with its value. A new one must be added here.
fn outgoing(settings: &Settings) -> Vec<(Path, Value)> {
    let mut found = Vec::new();
    let mut add = |path: Path, value: Value| found.push((path, value));
    if !settings.egress_private_hosts.is_empty() {
        add(Path::of("egress_private_hosts"), settings.egress_private_hosts.clone().into());
    }
    if let Some(file) = &settings.egress_ca {
        add(Path::of("egress_ca"), file.as_str().into());
    }
    for (index, issuer) in settings.issuers.iter().enumerate() {
        let path = Path::of("issuers").index(index);
        if let Some(url) = &issuer.jwks_url {
            add(path.key("jwks_url"), url.as_str().into());
        }
        if issuer.discovery {
            add(path.key("discovery"), true.into());
        }
    }
    if settings.engine.kind == "redis" {
        add(Path::of("engine").key("kind"), "redis".into());
    }
    if !settings.statsd.host.is_empty() {
        add(Path::of("statsd").key("host"), settings.statsd.host.as_str().into());
    }
    found
}

/// Returns `None` for the second part without outgoing connections.
pub fn check(settings: &Settings, report: &mut Report, files: &mut Files) -> (Egress, Option<FetchConfig>) {
    match settings.egress.as_str() {
        "configured" => {
            let private_hosts = check_hosts(&settings.egress_private_hosts, report);
            let authorities = settings.egress_ca.as_deref().map(|file| check_authorities(file, report, files));
            let fetch = FetchConfig { private_hosts, authorities: authorities.unwrap_or_default() };
            (Egress::Configured, Some(fetch))
        }
        "none" => {
            for (path, value) in outgoing(settings) {
                report.wrong(&path, value, "must be left out with egress = \"none\": it needs outgoing connections");
            }
            (Egress::None, None)
        }
        other => {
            report.wrong(&Path::of("egress"), other, one_of(other, &["configured", "none"]));
            (Egress::None, None)
        }
    }
}

fn check_hosts(hosts: &[String], report: &mut Report) -> Vec<String> {
    let path = Path::of("egress_private_hosts");
    for (index, host) in hosts.iter().enumerate() {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':');
        let is_address = host.parse::<std::net::IpAddr>().is_ok();
        let is_name = !host.is_empty() && host.bytes().all(allowed) && !host.contains(':');
        if !is_address && !is_name {
            report.wrong(&path.index(index), host.as_str(), "must be a host name or an address, without a port");
        }
    }
    hosts.to_vec()
}

fn check_authorities(name: &str, report: &mut Report, files: &mut Files) -> Vec<CertificateDer<'static>> {
    let read = read_text(&files.locate(name)).and_then(|text| {
        let certificates = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
        let certificates = certificates.map_err(|error| error.to_string())?;
        let mut store = RootCertStore::empty();
        for certificate in &certificates {
            store.add(certificate.clone()).map_err(|error| error.to_string())?;
        }
        if certificates.is_empty() { Err("no certificate in the file".to_owned()) } else { Ok(certificates) }
    });
    read.unwrap_or_else(|reason| {
        report.wrong(&Path::of("egress_ca"), name, format_args!("must be a PEM file with certificates: {reason}"));
        Vec::new()
    })
}
