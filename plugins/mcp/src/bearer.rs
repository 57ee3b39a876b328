//! The token that clients over HTTP carry: made up, found in a request, compared. For `pool` and `serve` alike.

use std::{fs::File, io::Read};

use hms_core::{Error, Result};
use hyper::{HeaderMap, header};

/// 192 random bits in hexadecimal: for what must not be guessed.
///
/// # Errors
/// When the system gives none.
pub(crate) fn secret() -> Result<String> {
    let mut bytes = [0_u8; 24];
    File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut bytes))
        .map_err(|e| Error::io("read random numbers from /dev/urandom", &e))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// Whether a request shows the token as `Authorization: Bearer TOKEN`.
pub(crate) fn carries(headers: &HeaderMap, token: &str) -> bool {
    let given = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let given = given.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    given.is_some_and(|(_, given)| same(given.trim(), token))
}

/// Compares in a time that does not tell how much of it is right.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |acc, (a, b)| acc | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_itself_opens() {
        let with = |value: &str| {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
            carries(&headers, "s3cret")
        };
        assert!(with("Bearer s3cret") && with("bearer  s3cret"));
        for wrong in ["Bearer s3cre", "Bearer s3cretx", "Basic s3cret", "s3cret", "Bearer", ""] {
            assert!(!with(wrong), "{wrong}");
        }
        assert!(!carries(&HeaderMap::new(), "s3cret"));
    }

    #[test]
    fn secrets_are_long_and_never_the_same() {
        let (one, two) = (secret().unwrap(), secret().unwrap());
        assert!(one.len() == 48 && one != two);
    }
}
