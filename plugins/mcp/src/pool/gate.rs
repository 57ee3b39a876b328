//! Who may come in: only this machine's programs, only with the token, and no web page that a browser carries here.
//!
//! A page on the web can make a browser send requests to loopback, and by rebinding its own name to 127.0.0.1
//! even read the answers. Such requests still carry the page's `Origin` and its name as `Host`: both are checked
//! before anything else.

use std::net::SocketAddr;

use hyper::{HeaderMap, StatusCode, header};

use crate::bearer::carries;

/// What a request has to show.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    token: Option<String>,
    /// Host names that a request may be for; empty: any.
    hosts: Vec<String>,
    /// Origins of web pages that may ask, beside those on this machine.
    origins: Vec<String>,
}

/// Why a request is turned away.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// The HTTP status.
    pub(super) status: StatusCode,
    /// A sentence.
    pub(super) why: &'static str,
}

impl Gate {
    /// The gate of a pool that listens at `address`.
    pub(super) fn new(
        address: SocketAddr,
        token: Option<String>,
        hosts: &[String],
        origins: &[String],
    ) -> Self {
        let mut all: Vec<String> = hosts.iter().map(|h| h.to_ascii_lowercase()).collect();
        if address.ip().is_loopback() || !hosts.is_empty() {
            all.extend(["localhost".into(), "127.0.0.1".into(), "[::1]".into(), bracketed(address)]);
        }
        Self { token, hosts: all, origins: origins.iter().map(|o| o.to_ascii_lowercase()).collect() }
    }

    /// Looks at a request's headers.
    ///
    /// # Errors
    /// 403 for a name or an origin that is not ours, 401 without the token.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), Refused> {
        let forbidden = |why| Err(Refused { status: StatusCode::FORBIDDEN, why });
        let one = |name| {
            let mut values = headers.get_all(name).iter();
            let first = values.next().map(|v| v.to_str().unwrap_or("?").to_ascii_lowercase());
            if values.next().is_some() { Some("?".into()) } else { first }
        };
        let host = one(header::HOST).unwrap_or_default();
        if !self.hosts.is_empty() && !self.hosts.iter().any(|h| h == without_port(&host)) {
            return forbidden("the Host header names another machine");
        }
        if let Some(origin) = one(header::ORIGIN) {
            let name = origin.split_once("://").map_or("", |(_, rest)| without_port(rest));
            let local = ["localhost", "127.0.0.1", "[::1]"].contains(&name);
            if !local && !self.origins.contains(&origin) {
                return forbidden("the Origin header names a page that may not ask here");
            }
        }
        let Some(token) = &self.token else { return Ok(()) };
        if carries(headers, token) {
            return Ok(());
        }
        Err(Refused {
            status: StatusCode::UNAUTHORIZED,
            why: "the header `Authorization: Bearer TOKEN` is missing or wrong",
        })
    }
}

fn bracketed(address: SocketAddr) -> String {
    if address.is_ipv6() { format!("[{}]", address.ip()) } else { address.ip().to_string() }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(gate: &Gate, pairs: &[(&'static str, &str)]) -> u16 {
        let headers: HeaderMap =
            pairs.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect();
        gate.check(&headers).map_or_else(|r| r.status.as_u16(), |()| 200)
    }

    #[test]
    fn names_and_pages_of_other_machines_are_turned_away() {
        let gate = Gate::new("127.0.0.1:1".parse().unwrap(), None, &[], &["https://ok.example".into()]);
        for host in ["localhost", "LOCALHOST:80", "127.0.0.1:9", "[::1]:9", "[::1]"] {
            assert_eq!(check(&gate, &[("host", host)]), 200, "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", ""] {
            assert_eq!(check(&gate, &[("host", host)]), 403, "{host}");
        }
        let page = |origin| check(&gate, &[("host", "localhost"), ("origin", origin)]);
        assert_eq!((page("http://localhost:3000"), page("https://ok.example")), (200, 200));
        assert_eq!(
            (page("https://evil.example"), page("null"), page("https://ok.example:1")),
            (403, 403, 403)
        );
        let exposed = Gate::new("0.0.0.0:1".parse().unwrap(), None, &[], &[]);
        assert_eq!(check(&exposed, &[("host", "this.machine:80")]), 200);
    }

    #[test]
    fn the_token_is_wanted_whole() {
        let gate = Gate::new("127.0.0.1:1".parse().unwrap(), Some("s3cret".into()), &[], &[]);
        let with = |value| check(&gate, &[("host", "localhost"), ("authorization", value)]);
        assert_eq!((with("Bearer s3cret"), with("bearer s3cret")), (200, 200));
        for wrong in ["Bearer s3cre", "Bearer s3cretx", "Basic s3cret", "s3cret", "Bearer"] {
            assert_eq!(with(wrong), 401, "{wrong}");
        }
        assert_eq!(check(&gate, &[("host", "localhost")]), 401);
        assert_eq!(check(&gate, &[("host", "evil.example"), ("authorization", "Bearer s3cret")]), 403);
    }
}
