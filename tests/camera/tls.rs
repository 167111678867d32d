//! Tests cameras over TLS: certificates that are not trusted or not valid, and a connection that is
//! cut. Each says so in the camera's state, and another camera goes on.

use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::{io, thread};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

use super::*;

/// A CA certificate, and a server's certificate and key that the CA signed.
struct Authority {
    authority: PathBuf,
    server: (PathBuf, PathBuf),
}

impl Authority {
    fn new(folder: &Path, name: &str) -> Authority {
        Authority::signing(folder, name, |_| {})
    }

    /// Signs a certificate for 127.0.0.1 after a change of it.
    fn signing(
        folder: &Path,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("{name} authority"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);

        let mut params = CertificateParams::new(vec!["127.0.0.1".to_string()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &issuer).unwrap().pem();
        let write = |what: &str, text: String| {
            let path = folder.join(format!("{name}-{what}.pem"));
            std::fs::write(&path, text).unwrap();
            path
        };
        Authority {
            authority: write("authority", authority),
            server: (write("server", leaf), write("key", key.serialize_pem())),
        }
    }

    fn serve(&self) -> Server {
        Server::start(Serve { tls: Some(self.server.clone()), ..Serve::default() })
    }
}

#[test]
fn only_the_configured_authority_is_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let right = Authority::new(folder.path(), "right");
    let wrong = Authority::new(folder.path(), "wrong");
    let server = right.serve();
    let rtsp = |tls| Rtsp { tls, ..server.rtsp("h264") };

    let authority = Source::Rtsp(rtsp(RtspTls::Authority(right.authority)));
    let watched = Watched::start(Camera { fps: 6.0, ..config("tls", authority) });
    check_frames(&watched.dated_frames(10), 6.0);
    for refused in [RtspTls::Authority(wrong.authority), RtspTls::System] {
        let config = config("tls", Source::Rtsp(rtsp(refused)));
        let error = camera::probe(&config, PATIENCE).unwrap_err();
        assert!(error.to_string().to_lowercase().contains("certificate"), "{error}");
    }
    let unchecked = config("tls", Source::Rtsp(rtsp(RtspTls::Unchecked)));
    camera::probe(&unchecked, PATIENCE).unwrap();
}

#[test]
fn a_certificate_that_is_not_valid_is_the_reason_of_the_camera_state() {
    let folder = tempfile::tempdir().unwrap();
    let good = Authority::new(folder.path(), "good");
    let served = good.serve();
    let rtsp = Rtsp { tls: RtspTls::Authority(good.authority), ..served.rtsp("h264") };
    let other = Watched::start(config("other", Source::Rtsp(rtsp)));
    other.frames(1);

    let expired = Authority::signing(folder.path(), "expired", |params| {
        params.not_after = date_time_ymd(2001, 1, 1);
    });
    let early = Authority::signing(folder.path(), "early", |params| {
        params.not_before = date_time_ymd(2999, 1, 1);
    });
    let renamed = Authority::signing(folder.path(), "renamed", |params| {
        params.subject_alt_names =
            CertificateParams::new(vec!["cam.example".into()]).unwrap().subject_alt_names;
    });
    let unknown = Authority::new(folder.path(), "unknown");
    let unknown = Authority { authority: expired.authority.clone(), ..unknown };
    let cases = [
        (expired, "the camera's certificate has expired"),
        (early, "the camera's certificate is not valid yet"),
        (renamed, "the camera's certificate is for another host"),
        (unknown, "the camera's certificate is of an authority that is not trusted (`ca_file`)"),
    ];
    let cameras = cases.map(|(authority, reason)| {
        let server = authority.serve();
        let tls = RtspTls::Authority(authority.authority);
        let rtsp = Rtsp { tls, ..server.rtsp("h264") };
        (Watched::start(config("gate", Source::Rtsp(rtsp))), server, reason)
    });
    for (watched, _server, reason) in &cameras {
        let status = watched.when(|status| !status.reason.is_empty());
        assert!(status.reason.contains(reason), "{status:?}; wanted {reason}");
        assert_ne!(status.state, CameraState::Live);
        assert_eq!(watched.count(), 0, "{reason}");
    }
    other.frames(other.count() + 4);
    assert!(!other.states().contains(&CameraState::Lost), "{:?}", other.states());
}

/// Passes connections on to a port, until it cuts those that are open.
struct Wire {
    port: u16,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Wire {
    fn to(port: u16) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let wire = Wire { port: listener.local_addr().unwrap().port(), open: open.clone() };
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    thread::spawn(move || {
                        let _ = io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
                open.lock().unwrap().extend([near, far]);
            }
        });
        wire
    }

    /// Cuts the connections without the end of their TLS.
    fn cut(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

#[test]
fn a_connection_that_is_cut_is_lost_and_begun_again() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "right");
    let server = authority.serve();
    let tls = || RtspTls::Authority(authority.authority.clone());
    let other = Rtsp { tls: tls(), ..server.rtsp("h264") };
    let other = Watched::start(config("other", Source::Rtsp(other)));
    other.frames(1);

    let wire = Wire::to(server.port);
    let rtsp = Rtsp { tls: tls(), ..rtsp(wire.port, "h264", "rtsps") };
    let watched = Watched::start(config("gate", Source::Rtsp(rtsp)));
    watched.state(CameraState::Live);
    watched.frames(4);
    wire.cut();
    let status = watched.state(CameraState::Lost);
    assert!(!status.reason.is_empty());
    watched.state(CameraState::Live);
    watched.frames(watched.count() + 4);
    assert!(!other.states().contains(&CameraState::Lost), "{:?}", other.states());
}
