//! The TCP check: does an address accept connections?

use std::fmt;

use hms_core::{Error, ErrorKind, Result};
use serde_json::Value;
use tokio::net::TcpStream;

use super::plain;

/// Connects and hangs up.
#[derive(Debug, Clone)]
pub(crate) struct TcpCheck {
    host: String,
    port: u16,
}

impl TcpCheck {
    /// Reads `host:port`, `127.0.0.1:80` or `[::1]:80` at key `at`.
    pub(crate) fn parse(at: &str, value: &Value) -> Result<Self> {
        let text = value.as_str().unwrap_or_default();
        let wrong = || {
            let message = format!("`{at}`: `{text}` is not an address");
            Error::new(ErrorKind::InvalidConfig, message)
                .hint("write it as host:port, 127.0.0.1:80 or [::1]:80")
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port: u16 = port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let host = bare.unwrap_or(host);
        let fits = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || "/[]".contains(c));
        if !fits || (bare.is_none() && host.contains(':')) {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), port })
    }

    /// Connects, without a deadline of its own. Names are looked up on a thread that may block.
    pub(crate) async fn run(&self) -> Result<(), String> {
        TcpStream::connect((self.host.as_str(), self.port)).await.map(drop).map_err(|e| plain(&e))
    }
}

impl fmt::Display for TcpCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}
