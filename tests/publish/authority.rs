//! An authority that signs certificates for tests.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::*;

/// An authority, and the files of the certificates that it signed.
pub struct Authority {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Authority {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, "authority");
        let certificate = authority.self_signed(&key).unwrap().pem();
        std::fs::write(folder.path().join("ca.pem"), certificate).unwrap();
        std::fs::write(folder.path().join("ca.key"), key.serialize_pem()).unwrap();
        Authority { folder, issuer: Issuer::new(authority, key) }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes the files `NAME.pem` and `NAME.key`.
    pub fn sign(&self, name: &str) -> ClientCertificate {
        self.sign_until(name, 4000)
    }

    /// Signs a certificate that expires at the beginning of a year.
    pub fn sign_until(&self, name: &str, year: i32) -> ClientCertificate {
        let key = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::new(vec![name.into()]).unwrap();
        leaf.distinguished_name.push(DnType::CommonName, name);
        leaf.not_after = rcgen::date_time_ymd(year, 1, 1);
        let leaf = leaf.signed_by(&key, &self.issuer).unwrap();
        let cert_file = self.file(&format!("{name}.pem"));
        let key_file = self.file(&format!("{name}.key"));
        std::fs::write(&cert_file, leaf.pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        ClientCertificate { cert_file, key_file }
    }
}
