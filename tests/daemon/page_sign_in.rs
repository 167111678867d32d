//! The page of a daemon with access control in a real browser: its form for a token, and what each
//! role sees.

use std::collections::BTreeSet;

use lookout::access::{NewToken, Role, TokenStore};
use serde_json::json;

use crate::browser;
use crate::support::*;

#[test]
fn the_page_signs_in_with_a_token() {
    let folder = folder();
    let dir = folder.path();
    let store = TokenStore::new(dir.join("access"));
    let add = |name: &str, role, cameras: Option<&str>| {
        let cameras = cameras.map(|camera| BTreeSet::from([camera.to_owned()]));
        store.add(NewToken { name: name.into(), role, cameras, expires_at: None }).expect("a token")
    };
    let tokens = json!({
        "view": add("anna", Role::View, None),
        "ask": add("ben", Role::Ask, None),
        "admin": add("cleo", Role::Admin, None),
        "gate": add("dora", Role::Admin, Some("gate")),
        "revoked": add("emil", Role::Ask, None),
    });
    let clips = ["drive", "gate"].map(|name| (name, clip(name)));
    let streams = clips.each_ref().map(|(name, file)| (*name, file.as_path()));
    let server = Cameras::start(dir, 0, &streams, &[]);
    let cameras = ["drive", "gate"].map(|name| camera(name, &server.url(name), "")).concat();
    let (grpc, http) = (free_port(), free_port());
    let (journal, access) = (dir.join("journal"), dir.join("access"));
    let config = head(grpc, http, None)
        + &format!("[journal]\nfolder = {journal:?}\n")
        + &format!("[access]\nenabled = true\nfolder = {access:?}\n{cameras}");
    let _daemon = Daemon::with_config(dir, &config, grpc, http);
    let address = format!("http://127.0.0.1:{http}/");
    browser::run("sign_in.mjs", &[&address, &tokens.to_string()], |wanted| {
        assert_eq!(wanted, "revoke");
        store.revoke("emil").expect("revoked");
    });
}
