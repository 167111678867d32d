//! Serves the page that people open in a browser. Its files are part of the program; a debug build
//! reads them from the sources, so that a change shows at once.
//!
//! Guarantees: the page runs only its own scripts, loads nothing from another host, and cannot be
//! shown in a frame of another page. Its files contain no data: those come from the API, which
//! decides who may read them.

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use rust_embed::{EmbeddedFile, RustEmbed};

#[derive(RustEmbed)]
#[folder = "daemon/publish/http/page/assets/"]
struct Files;

/// Number of bytes of a file's SHA-256 that are its tag.
const TAG_BYTES: usize = 16;

const HEADERS: [(HeaderName, HeaderValue); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; \
             media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
             frame-ancestors 'none'",
        ),
    ),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        HeaderValue::from_static("same-origin"),
    ),
    // The browser asks each time, so that it never mixes the files of two versions.
    (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
];

/// Returns the routes. Every URL in the page is relative, so that a proxy may serve it at any path.
pub fn routes() -> Router {
    Router::new()
        .route("/", get(async |headers: HeaderMap| file("index.html", &headers)))
        .route("/page/{*path}", get(one))
}

async fn one(Path(path): Path<String>, headers: HeaderMap) -> Response {
    file(&path, &headers)
}

fn file(path: &str, asked: &HeaderMap) -> Response {
    let (Some(file), Some(kind)) = (Files::get(path), content_type(path)) else {
        return (StatusCode::NOT_FOUND, HEADERS, "the page has no such file\n").into_response();
    };
    let tag = tag(&file);
    let known = asked.get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
    if known.is_some_and(|tags| tags.split(',').any(|known| known.trim() == tag)) {
        return (StatusCode::NOT_MODIFIED, HEADERS, [(header::ETAG, tag)]).into_response();
    }
    let about = [(header::CONTENT_TYPE, kind.to_owned()), (header::ETAG, tag)];
    (HEADERS, about, file.data).into_response()
}

fn tag(file: &EmbeddedFile) -> String {
    let hash = file.metadata.sha256_hash();
    let hash: String = hash.iter().take(TAG_BYTES).map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hash}\"")
}

/// Returns the type of a file by the end of its name, or `None` for a file that is not a part of the
/// page.
fn content_type(path: &str) -> Option<&'static str> {
    match path.rsplit_once('.')?.1 {
        "html" => Some("text/html; charset=utf-8"),
        "css" => Some("text/css; charset=utf-8"),
        "js" => Some("text/javascript; charset=utf-8"),
        "svg" => Some("image/svg+xml"),
        _ => None,
    }
}
