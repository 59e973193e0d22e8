//! TLS: the authorities that servers are known by.

use std::path::Path;
use std::sync::Arc;
use std::{fs, io};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use crate::environment::Variable;
use crate::error::{Cause, Error, Result};

/// The authorities of the file `SSL_CERT_FILE`, else Mozilla's.
pub(super) fn settings() -> Result<ClientConfig> {
    let roots = match Variable::Certificates.path() {
        Some(path) => authorities(&path)?,
        None => webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect(),
    };
    // Named here: a process may hold several, and then none is taken by itself.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let settings = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let settings = settings.map_err(|e| Error::io("start", "TLS")(io::Error::other(e)))?;
    Ok(settings.with_root_certificates(roots).with_no_client_auth())
}

/// The certificates of a PEM file; what else it holds is left.
fn authorities(path: &Path) -> Result<RootCertStore> {
    let pem = fs::read(path).map_err(Error::io("read", path))?;
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_slice_iter(&pem).flatten();
    let (taken, _) = roots.add_parsable_certificates(certificates);
    if taken == 0 {
        let wrong = Error::Malformed {
            kind: "PEM file of certificates",
            path: path.into(),
            reason: "it holds no certificate".into(),
        };
        return Err(wrong.because(Cause::Certificate));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("roots.pem");
        let error = authorities(&path).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        let torn = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for text in ["", "no certificate", torn] {
            fs::write(&path, text).unwrap();
            let error = authorities(&path).unwrap_err();
            assert!(error.to_string().contains("roots.pem"), "{error}");
            assert!(error.hint().unwrap().contains("`SSL_CERT_FILE`"));
        }
    }
}
