//! Why a request brought nothing, in words that name neither library nor secret.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

/// Why a request brought nothing, or only the beginning of an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// What was asked for is no address of the web.
    #[error("this is no address")]
    Address,
    /// The name of the host is known to nobody.
    #[error("host not found: {0}")]
    Host(String),
    /// No connection in this time.
    #[error("timeout: no connection in {} s", .0.as_secs_f64())]
    NoConnection(Duration),
    /// The certificate of the server is not one to trust.
    #[error("TLS: {0}")]
    Certificate(String),
    /// The connection cannot be made secret.
    #[error("TLS: {0}")]
    Tls(String),
    /// The machine or the network refuses.
    #[error("io: {0}")]
    Io(String),
    /// The answer is none of HTTP, or is cut off.
    #[error("{0}")]
    Broken(String),
    /// No byte of the body came in this time.
    #[error("timeout: no byte in {} s", .0.as_secs_f64())]
    Silent(Duration),
    /// The whole answer, or its head, did not come in time.
    #[error("{host} is too slow: no whole answer in {} s", within.as_secs_f64())]
    #[expect(missing_docs, reason = "as the message says")]
    Slow { host: String, within: Duration },
}

impl Failure {
    /// True if the same request may succeed at another time.
    #[must_use]
    pub fn passes(&self) -> bool {
        !matches!(self, Self::Address | Self::Certificate(_))
    }

    /// The failure that the client reports. `connect`: the time that there was to connect.
    pub(super) fn of(error: reqwest::Error, connect: Duration) -> Self {
        // The address may hold a signature, and the caller names it.
        let error = error.without_url();
        if error.is_builder() {
            return Self::Address;
        }
        let innermost = innermost(&error);
        let text = innermost.to_string();
        match innermost.downcast_ref::<rustls::Error>() {
            Some(rustls::Error::InvalidCertificate(_)) => return Self::Certificate(text),
            Some(_) => return Self::Tls(text),
            None => {}
        }
        if let Some(end) = text.strip_prefix("tls ") {
            return Self::Tls(end.into());
        }
        if error.is_dns() {
            Self::Host(text)
        } else if innermost.is::<io::Error>() {
            Self::Io(text)
        } else if error.is_timeout() {
            Self::NoConnection(connect)
        } else {
            Self::Broken(text)
        }
    }
}

/// The first cause of an error. What an `io::Error` wraps is not among its sources.
fn innermost<'a>(error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    let mut at = error;
    loop {
        let wrapped = at.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let wrapped = wrapped.map(|inner| inner as &'a (dyn StdError + 'static));
        match wrapped.or_else(|| at.source()) {
            Some(inner) => at = inner,
            None => return at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cause_is_found_in_errors_within_errors() {
        let alert = rustls::Error::InvalidCertificate(rustls::CertificateError::Expired);
        let nested = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, alert.clone()));
        let found = innermost(&nested).downcast_ref::<rustls::Error>();
        assert_eq!(found, Some(&alert));
        let plain = io::Error::from_raw_os_error(111);
        assert!(innermost(&plain).is::<io::Error>());
    }

    #[test]
    fn certificates_and_addresses_do_not_mend_themselves() {
        assert!(!Failure::Address.passes() && !Failure::Certificate(String::new()).passes());
        let slow = Failure::Slow {
            host: "h:8".into(),
            within: Duration::from_millis(200),
        };
        assert!(slow.passes() && Failure::Io(String::new()).passes() && Failure::Tls(String::new()).passes());
        assert_eq!(slow.to_string(), "h:8 is too slow: no whole answer in 0.2 s");
    }
}
