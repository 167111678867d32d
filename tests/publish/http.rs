//! Tests HTTP: health, readiness and metrics.

use super::*;

#[tokio::test]
async fn while_the_model_loads_http_is_healthy_and_not_ready() {
    let listener = listener(Interface::Http, "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let loaded = CancellationToken::new();
    let serving = tokio::spawn(publish::http::serve_loading(listener, loaded.clone()));
    for (path, status) in [("/healthz", "200"), ("/readyz", "503"), ("/metrics", "503")] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let reply = String::from_utf8(to_its_end(stream).await).unwrap();
        assert!(reply.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {reply}");
        assert!(path == "/healthz" || reply.ends_with("the model is loading\n"), "{reply}");
    }
    loaded.cancel();
    timeout(SOON, serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn http_reports_health_readiness_and_metrics() {
    let daemon = Daemon::start(10).await;
    let metrics = metrics();
    lookout::metrics::frame("gate");
    lookout::metrics::frame("removed");
    lookout::metrics::published("gate", Interface::Mqtt, Duration::from_millis(7));
    let listener = listener(Interface::Http, "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let serving =
        tokio::spawn(publish::http::serve(listener, daemon.gate(&stop), metrics, stop.clone()));
    let get = async |path: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        reply
    };
    assert!(get("/healthz").await.starts_with("HTTP/1.1 200"));
    let ready = get("/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    assert!(ready.ends_with("ready; the disk is full\n"), "{ready}");
    daemon.service.ready.store(false, Ordering::Relaxed);
    let not_ready = get("/readyz").await;
    assert!(not_ready.starts_with("HTTP/1.1 503"), "{not_ready}");
    assert!(not_ready.ends_with("the model is loading\n"), "{not_ready}");
    // Clients that send nothing or an incomplete request block no other client.
    let mut silent = Vec::new();
    for n in 0..2 * CONNECTIONS {
        let mut stream = TcpStream::connect(address).await.unwrap();
        if n % 2 == 0 {
            let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: ").await;
        }
        silent.push(stream);
    }
    for stream in silent.drain(..) {
        let reply = to_its_end(stream).await;
        assert!(!reply.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&reply));
    }
    for garbage in [
        "\0\0\0\0",
        "GET",
        "GET / HTTP/9.9\r\n\r\n",
        "POST /metrics HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(garbage.as_bytes()).await.unwrap();
        let reply = to_its_end(stream).await;
        assert!(!reply.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&reply));
    }
    let metrics = get("/metrics").await;
    assert!(metrics.contains("# HELP lookout_frames_total"), "{metrics}");
    let refused = r#"lookout_connections_refused_total{interface="http"} "#;
    assert!(metrics.contains(refused), "{metrics}");
    let timed_out = r#"lookout_connections_timed_out_total{interface="http"} "#;
    assert!(metrics.contains(timed_out), "{metrics}");
    assert!(metrics.contains(r#"lookout_frames_total{camera="gate"} 1"#), "{metrics}");
    assert!(metrics.contains("lookout_publish_seconds_bucket"), "{metrics}");
    // The daemon has no camera of this name.
    assert!(!metrics.contains("removed\""), "{metrics}");
    stop.cancel();
    timeout(SOON, serving).await.unwrap().unwrap().unwrap();
}
