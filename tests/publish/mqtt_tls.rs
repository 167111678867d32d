//! Tests TLS, passwords and client certificates with a real mosquitto.

use std::path::Path;

use super::*;

impl Authority {
    /// Returns mosquitto's settings of a listener with TLS.
    fn listener(&self, port: u16, more: &str) -> String {
        listener_with(&self.sign("localhost"), port, more)
    }

    fn config(&self, port: u16, client: Option<ClientCertificate>) -> Mqtt {
        let tls = Some(MqttTls { ca_file: Some(self.file("ca.pem")), client });
        Mqtt { host: "localhost".into(), tls, ..mqtt_config(port) }
    }
}

/// Returns mosquitto's settings of a listener with this certificate.
fn listener_with(certificate: &ClientCertificate, port: u16, more: &str) -> String {
    let ClientCertificate { cert_file, key_file } = certificate;
    format!(
        "per_listener_settings true\nlistener {port} 127.0.0.1\ncertfile {}\nkeyfile {}\n{more}",
        cert_file.display(),
        key_file.display(),
    )
}

#[tokio::test]
async fn the_reason_why_a_broker_is_not_trusted_is_named() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    for (certificate, reason) in [
        (authority.sign_until("localhost", 2001), "its certificate has expired"),
        (authority.sign("broker.example"), "its certificate has another name"),
        (stranger.sign("localhost"), "its certificate is not signed by a known authority"),
    ] {
        let port = free_port();
        let listener = listener_with(&certificate, port, "allow_anonymous true\n");
        let _broker = Broker::start_on(free_port(), &listener);
        let why = checked(&authority.config(port, None)).await.unwrap_err();
        assert!(why.contains(reason), "{why}; wanted {reason}");
    }
}

#[tokio::test]
async fn a_broker_may_require_tls_and_a_password() {
    let authority = Authority::new();
    let passwords = authority.file("passwords");
    let hashed = Command::new("mosquitto_passwd")
        .args(["-b", "-c"])
        .arg(&passwords)
        .args(["lookout", "sesame"])
        .status();
    assert!(hashed.unwrap().success());
    let password = authority.file("password");
    std::fs::write(&password, "wrong\n").unwrap();

    let (port, plain) = (free_port(), free_port());
    let more = format!("password_file {}\nallow_anonymous false\n", passwords.display());
    let _broker = Broker::start_on(plain, &authority.listener(port, &more));
    let daemon = Daemon::start(10).await;
    let mut heard = Subscriber::connect(plain, "lookout/#").await;
    let config = Mqtt {
        username: Some("lookout".into()),
        password: Some(Secret::File(password.clone())),
        ..authority.config(port, None)
    };
    assert!(checked(&config).await.unwrap_err().starts_with("refused: "));
    let publisher = Publisher::start(&daemon, config.clone());
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(heard.messages.try_recv().is_err(), "a wrong password was taken");
    // The file is read again for each attempt.
    std::fs::write(password, "sesame\n").unwrap();
    heard.until("lookout/available", "online").await;
    // A check disturbs neither the connection nor what is retained.
    assert_eq!(checked(&config).await, Ok("MQTT 5"));
    daemon.caption("still here");
    while heard.next().await.topic != "lookout/gate/caption" {}
    publisher.stop().await;
}

#[tokio::test]
async fn a_broker_may_require_a_client_certificate() {
    let authority = Authority::new();
    let (port, plain) = (free_port(), free_port());
    let more = format!(
        "cafile {}\nrequire_certificate true\nuse_identity_as_username true\n",
        authority.file("ca.pem").display()
    );
    let _broker = Broker::start_on(plain, &authority.listener(port, &more));
    let good = authority.sign("lookout");
    let config = authority.config(port, Some(good.clone()));
    assert_eq!(checked(&config).await, Ok("MQTT 5"));

    let daemon = Daemon::start(10).await;
    let mut heard = Subscriber::connect(plain, "lookout/#").await;
    let publisher = Publisher::start(&daemon, config);
    heard.until("lookout/available", "online").await;
    publisher.stop().await;

    assert!(checked(&authority.config(port, None)).await.is_err(), "no certificate was needed");
    let stranger = Authority::new();
    let refused = checked(&authority.config(port, Some(stranger.sign("lookout")))).await;
    assert!(refused.is_err(), "a certificate of another authority was accepted");
}

#[test]
fn wrong_certificate_files_are_named_by_check() {
    let authority = Authority::new();
    let port = free_port();
    let _broker =
        Broker::start_on(free_port(), &authority.listener(port, "allow_anonymous true\n"));
    let (good, other) = (authority.sign("lookout"), authority.sign("other"));
    let missing = authority.file("missing.pem");
    std::fs::write(authority.file("text"), "no PEM\n").unwrap();
    let text = authority.file("text");
    let ca = authority.file("ca.pem");
    for (ca, cert, key, wanted) in [
        (&ca, &good.cert_file, &good.key_file, "ok    mqtt"),
        (&missing, &good.cert_file, &good.key_file, "mqtt.ca_file PATH: cannot be read: No such"),
        (&text, &good.cert_file, &good.key_file, "mqtt.ca_file PATH: contains no certificate"),
        (&ca, &missing, &good.key_file, "mqtt.client_cert_file PATH: cannot be read: No such"),
        (&ca, &text, &good.key_file, "mqtt.client_cert_file PATH: contains no certificate"),
        (&ca, &good.cert_file, &missing, "mqtt.client_key_file PATH: cannot be read: No such"),
        (&ca, &good.cert_file, &text, "mqtt.client_key_file PATH: contains no private key"),
        (&ca, &good.cert_file, &other.key_file, "is not the key of the certificate in"),
    ] {
        let said = check(&authority, port, ca, cert, key);
        let wrong = [ca, cert, key].into_iter().find(|file| **file == missing || **file == text);
        let wanted = wanted.replace("PATH", &wrong.unwrap_or(ca).display().to_string());
        let line = said.lines().find(|line| line.contains("mqtt")).unwrap_or_default();
        assert!(line.contains(&wanted), "{wanted:?} is not in {said}");
    }
}

/// Runs `lookout check` and returns what it prints.
fn check(authority: &Authority, port: u16, ca: &Path, cert: &Path, key: &Path) -> String {
    let config = format!(
        "[model]\npackage = \"none\"\nplan = \"paper\"\n[mqtt]\n\
         broker = \"mqtts://localhost:{port}\"\nca_file = {ca:?}\nclient_cert_file = {cert:?}\n\
         client_key_file = {key:?}\n[[camera]]\nname = \"gate\"\nurl = \"file:none.mp4\"\n"
    );
    let file = authority.file("lookout.toml");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_lookout"));
    let output = command.arg("check").arg("--config").arg(&file).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

async fn checked(config: &Mqtt) -> Result<&'static str, String> {
    let config = config.clone();
    tokio::task::spawn_blocking(move || publish::mqtt::check(&config)).await.unwrap()
}
