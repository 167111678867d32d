//! Tests the changes of cameras over HTTP.

use lookout::service::{CameraEdit, ConfigChange, ConfiguredCamera, ReloadError, Reloaded};
use serde_json::json;

use super::api::Server;
use super::*;

/// Answers changes with one sentence, and returns the changes that were requested.
fn recorded(daemon: &Daemon) -> Arc<Mutex<Vec<ConfigChange>>> {
    let changes = Arc::new(Mutex::new(Vec::new()));
    let requested = changes.clone();
    *daemon.service.change_config.lock().unwrap() = Box::new(move |change| {
        requested.lock().unwrap().push(change);
        Ok(Reloaded { changes: vec!["done".into()], needs_restart: Vec::new() })
    });
    changes
}

#[tokio::test]
async fn each_change_of_a_camera_is_the_change_of_the_service() {
    let daemon = Daemon::start(10).await;
    let changes = recorded(&daemon);
    let server = Server::start(&daemon).await;
    let kind = "Content-Type: application/json\r\n";
    let url = "rtsp://me:it's \"secret\"@cam/x";
    let settings = json!({
        "url": url, "fps": 2, "unchanged_threshold": 0.5, "captions": false,
        "masks": [{ "polygon": [[0, 0], [1, 0], [1, 1]] }],
    });
    let new = json!({ "name": "hall", "settings": settings, "force": true });
    let changed = json!({ "settings": { "fps": 1.5, "window": null } });
    for (request, body) in [
        ("POST /api/v1/cameras", new.to_string()),
        ("PATCH /api/v1/cameras/hall", changed.to_string()),
        ("POST /api/v1/cameras/hall/pause", String::new()),
        ("POST /api/v1/cameras/hall/resume", String::new()),
        ("DELETE /api/v1/cameras/hall", String::new()),
    ] {
        let reply = server.send(request, kind, &body).await;
        let done = json!({ "changes": ["done"], "needs_restart": [] });
        assert_eq!((reply.status, reply.json()), (200, done), "{request}");
    }
    let edits: Vec<CameraEdit> = changes
        .lock()
        .unwrap()
        .drain(..)
        .map(|change| match change {
            ConfigChange::Camera { name, edit } if name == "hall" => edit,
            other => panic!("{other:?}"),
        })
        .collect();
    let CameraEdit::Add { settings: toml, force: true } = &edits[0] else { panic!("{edits:?}") };
    let written: toml::Table = toml.parse().unwrap();
    assert_eq!(written["url"].as_str(), Some(url));
    assert_eq!(serde_json::to_value(written).unwrap(), settings);
    let reset = vec!["window".to_owned()];
    assert_eq!(edits[1], CameraEdit::Update { settings: "fps = 1.5\n".into(), reset });
    assert_eq!(edits[2..], [CameraEdit::Pause, CameraEdit::Resume, CameraEdit::Remove]);
}

#[tokio::test]
async fn a_refused_change_names_the_field() {
    let daemon = Daemon::start(10).await;
    let server = Server::start(&daemon).await;
    let new = |settings: Value| json!({ "name": "hall", "settings": settings });
    let post = async |body: &Value| server.post("/cameras", body).await;
    for (error, status, reason, field) in [
        (
            ReloadError::InvalidCamera { key: Some("fps".into()), why: "fps = 0".into() },
            400,
            "INVALID_CAMERA",
            json!("fps"),
        ),
        (ReloadError::CameraExists("hall".into()), 400, "CAMERA_EXISTS", json!("name")),
        (
            ReloadError::CameraUnreachable { camera: "hall".into(), why: "no route".into() },
            503,
            "CAMERA_UNREACHABLE",
            json!("url"),
        ),
        (ReloadError::CameraNotFound("hall".into()), 404, "CAMERA_NOT_FOUND", Value::Null),
        (
            ReloadError::CameraInConfig { camera: "hall".into(), place: "a.toml".into() },
            400,
            "CAMERA_IN_CONFIG",
            Value::Null,
        ),
        (ReloadError::Busy, 429, "TOO_MANY_RELOADS", Value::Null),
    ] {
        let wrong = error.clone();
        *daemon.service.change_config.lock().unwrap() = Box::new(move |_| Err(wrong.clone()));
        let refusal = post(&new(json!({ "url": "rtsp://cam/x" }))).await.refused(status, reason);
        assert_eq!(refusal["field"], field, "{refusal}");
    }
    let changes = recorded(&daemon);
    let refusal = post(&new(json!({ "url": null }))).await.refused(400, "INVALID_REQUEST");
    assert_eq!(refusal["field"], "url", "{refusal}");
    for body in [json!({}), json!({ "name": "hall" }), json!({ "name": "h", "setings": {} })] {
        post(&body).await.refused(400, "INVALID_REQUEST");
    }
    assert_eq!(*changes.lock().unwrap(), []);
}

#[tokio::test]
async fn a_page_of_another_site_changes_no_camera() {
    let daemon = Daemon::start(10).await;
    let changes = recorded(&daemon);
    let server = Server::start(&daemon).await;
    for header in ["Origin: http://example.com", "Sec-Fetch-Site: cross-site"] {
        for request in [
            "POST /api/v1/cameras",
            "PATCH /api/v1/cameras/gate",
            "POST /api/v1/cameras/gate/pause",
            "POST /api/v1/cameras/gate/resume",
            "DELETE /api/v1/cameras/gate",
            "GET /api/v1/config/cameras",
        ] {
            let headers = format!("{header}\r\nContent-Type: application/json\r\n");
            let reply = server.send(request, &headers, "{}").await;
            reply.refused(403, "OTHER_ORIGIN");
        }
    }
    // A form of another site can send only types that are not JSON.
    let form = "Content-Type: text/plain\r\n";
    let reply = server.send("POST /api/v1/cameras", form, r#"{"name":"h","settings":{}}"#).await;
    assert_eq!(reply.status, 415);
    assert_eq!(*changes.lock().unwrap(), []);
}

#[tokio::test]
async fn the_cameras_of_the_config_are_listed() {
    let daemon = Daemon::start(10).await;
    let server = Server::start(&daemon).await;
    let listed = server.get("/config/cameras").await.json();
    let ConfiguredCamera { name, .. } = configured("gate", Some("lookout.toml, line 4"));
    assert_eq!(listed["cameras"][0]["name"], *name);
    assert_eq!(listed["cameras"][0]["config_place"], "lookout.toml, line 4");
    assert_eq!(listed["cameras"][1]["config_place"], Value::Null);
    assert_eq!(listed["cameras"][0]["settings"], json!({ "url": "rtsp://camera.example/1" }));
}
