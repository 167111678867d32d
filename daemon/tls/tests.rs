//! Tests certificates: what they say, what is wrong with their files, and their renewal.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use tempfile::TempDir;

use super::server::ServerTls;
use super::validity::Validity;
use crate::config::Tls;

struct Files {
    folder: TempDir,
    tls: Tls,
}

impl Files {
    /// Writes a certificate that is valid between two years, and its key.
    fn new(years: [i32; 2]) -> Files {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let tls =
            Tls { cert_file: file("cert.pem"), key_file: file("key.pem"), client_ca_file: None };
        let files = Files { folder, tls };
        files.write(years);
        files
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, [from, until]: [i32; 2]) {
        let key = KeyPair::generate().unwrap();
        let names = vec!["cam.example".into(), "192.168.1.7".into()];
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        fs::write(&self.tls.cert_file, params.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(&self.tls.key_file, key.serialize_pem()).unwrap();
    }

    fn refusal(&self) -> String {
        ServerTls::load(&self.tls).err().expect("a refusal")
    }
}

/// Makes the files unusable.
type Break = fn(&Files);

const VALID: [i32; 2] = [2020, 2120];

#[test]
fn a_certificate_says_its_names_and_when_it_is_valid() {
    let files = Files::new(VALID);
    let tls = ServerTls::load(&files.tls).unwrap();
    let expected = "for cam.example, 192.168.1.7, valid until 2120-01-01T00:00:00Z";
    assert_eq!(tls.describe(), expected);
    assert_eq!(tls.trouble(), None);
    let cut = &fs::read(&files.tls.cert_file).unwrap()[..100];
    assert!(Validity::of(cut).unwrap_err().starts_with("is not an X.509 certificate"));
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let cert = |files: &Files| format!("tls.cert_file {}: ", files.tls.cert_file.display());
    let key = |files: &Files| format!("tls.key_file {}: ", files.tls.key_file.display());

    let files = Files::new(VALID);
    fs::remove_file(&files.tls.cert_file).unwrap();
    assert!(files.refusal().starts_with(&(cert(&files) + "cannot be read: No such file")));
    fs::write(&files.tls.cert_file, "text").unwrap();
    assert_eq!(files.refusal(), cert(&files) + "contains no certificate; wanted one in PEM");

    let files = Files::new(VALID);
    fs::write(&files.tls.key_file, "text").unwrap();
    assert_eq!(files.refusal(), key(&files) + "contains no private key; wanted one in PEM");
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----";
    fs::write(&files.tls.key_file, encrypted).unwrap();
    assert!(files.refusal().starts_with(&(key(&files) + "contains an encrypted key; decrypt it")));
    fs::write(&files.tls.key_file, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let other = format!(
        "is not the key of the certificate in {}; wanted the key with which that certificate was \
         made",
        files.tls.cert_file.display()
    );
    assert_eq!(files.refusal(), key(&files) + &other);

    let mut files = Files::new(VALID);
    files.tls.client_ca_file = Some(files.file("clients.pem"));
    let named = format!("tls.client_ca_file {}: ", files.file("clients.pem").display());
    assert!(files.refusal().starts_with(&(named.clone() + "cannot be read")));
    fs::write(files.file("clients.pem"), "").unwrap();
    assert!(files.refusal().starts_with(&(named + "contains no certificate")));
}

#[test]
fn a_missing_permission_is_named() {
    let files = Files::new(VALID);
    fs::set_permissions(&files.tls.key_file, fs::Permissions::from_mode(0o200)).unwrap();
    // The superuser may read every file.
    if fs::read(&files.tls.key_file).is_ok() {
        return;
    }
    let refusal = files.refusal();
    assert!(refusal.contains("its mode is 200, its owner"), "{refusal}");
}

#[test]
fn a_certificate_that_is_not_valid_now_is_a_trouble_and_starts() {
    for (years, wrong) in [
        ([2020, 2021], "expired at 2021-01-01T00:00:00Z; renew it"),
        ([2119, 2120], "is not valid before 2119-01-01T00:00:00Z; is this machine's clock right?"),
    ] {
        let files = Files::new(years);
        let tls = ServerTls::load(&files.tls).unwrap();
        let file = files.tls.cert_file.display();
        assert_eq!(tls.trouble(), Some(format!("tls.cert_file {file}: {wrong}")));
    }
}

#[test]
fn a_broken_renewal_keeps_the_old_certificate() {
    let files = Files::new(VALID);
    let tls = ServerTls::load(&files.tls).unwrap();
    let old = tls.describe();
    let broken: [(&str, Break); 3] = [
        ("contains no certificate", |files| fs::write(&files.tls.cert_file, "").unwrap()),
        ("expired at 2022", |files| files.write([2020, 2022])),
        ("is not the key", |files| {
            fs::write(&files.tls.key_file, KeyPair::generate().unwrap().serialize_pem()).unwrap();
        }),
    ];
    for (wrong, break_it) in broken {
        files.write([2020, 2110]);
        break_it(&files);
        let refusal = tls.reload(&files.tls).unwrap_err();
        assert!(refusal.contains(wrong), "{refusal}");
        assert_eq!(tls.describe(), old);
        let trouble = tls.trouble().expect("a trouble");
        let start = "the old TLS certificate, valid until 2120-01-01T00:00:00Z, is in use: tls.";
        assert!(trouble.starts_with(start) && trouble.ends_with(&refusal), "{trouble}");
    }
    files.write([2020, 2110]);
    tls.reload(&files.tls).unwrap();
    assert!(tls.describe().ends_with("valid until 2110-01-01T00:00:00Z"));
    assert_eq!(tls.trouble(), None);
}

#[tokio::test]
async fn files_that_change_are_read_again() {
    let files = Files::new(VALID);
    let tls = Arc::new(ServerTls::load(&files.tls).unwrap());
    let following = tokio::spawn(tls.clone().follow_every(Duration::from_millis(10)));
    let until = async |what: &str, is_so: &dyn Fn() -> bool| {
        let waiting = async {
            while !is_so() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), waiting).await.expect(what);
    };
    fs::remove_file(&files.tls.cert_file).unwrap();
    until("a trouble", &|| tls.trouble().is_some()).await;
    assert!(tls.describe().ends_with("2120-01-01T00:00:00Z"));
    files.write([2020, 2110]);
    until("the new certificate", &|| tls.describe().ends_with("2110-01-01T00:00:00Z")).await;
    until("no trouble", &|| tls.trouble().is_none()).await;
    following.abort();
}
