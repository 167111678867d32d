//! The page in a real browser, on a fake daemon: texts that contain markup, an answer that never
//! ends, a model that is loading, and 32 cameras with 100,000 events.

use lookout::access::Gate;
use lookout::event_store::{EventStore, Settings};
use tokio::runtime::Handle;

use super::*;
use crate::browser;

const MARKUP: &str = "<img src=x onerror=alert(1)>";

/// Number of cameras, and of events, of the page with many.
const CAMERAS: u64 = 32;
const EVENTS: u64 = 100_000;

/// Number of events that are appended before the disk is waited for.
const CHUNK: u64 = 2_000;

/// An HTTP server that a browser connects to, with the usual time limits.
struct Site {
    address: SocketAddr,
    stop: CancellationToken,
}

impl Site {
    async fn serve(daemon: &Daemon, address: SocketAddr) -> Site {
        let listener = Listener::bind(Interface::Http, address, 64).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let service = daemon.service.clone();
        tokio::spawn(publish::http::serve(
            listener,
            Gate::open(service, stop.clone()),
            metrics(),
            stop.clone(),
        ));
        Site { address, stop }
    }

    fn url(&self) -> String {
        format!("http://{}/", self.address)
    }
}

fn store(folder: &std::path::Path) -> Arc<dyn Journal> {
    let day = Duration::from_secs(86_400);
    let settings = Settings { folder: folder.into(), retention: 2 * day, bytes: 1 << 30 };
    let run = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64;
    EventStore::open(settings).unwrap().journal(run).unwrap()
}

fn caption_at(text: &str, to: SystemTime) -> Body {
    let Body::Caption(mut made) = caption(text) else { unreachable!() };
    made.inference.window = Span { from: to - Duration::from_secs(8), to };
    made.inference.coverage.gaps.clear();
    Body::Caption(made)
}

/// Returns a JPEG of a few kilobytes.
fn jpeg() -> Arc<[u8]> {
    std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/images/yard.jpg")).unwrap().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn markup_in_every_text_is_shown_as_text() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::with_journal(store(folder.path()));
    *daemon.service.jpeg.lock().unwrap() = jpeg();
    daemon.service.more_cameras.lock().unwrap().push(MARKUP.into());
    for camera in ["gate", MARKUP] {
        for text in ["A car.", "A purple zeppelin lands.", MARKUP] {
            daemon.service.journal.append(camera.into(), caption_at(text, SystemTime::now()));
        }
    }
    let Body::CameraStatus(mut lost) = Body::CameraStatus(status(CameraState::Lost)) else {
        unreachable!()
    };
    lost.reason = MARKUP.into();
    daemon.service.journal.append("gate".into(), Body::CameraStatus(lost));
    daemon.service.journal.flush();
    let (gone, mut is_gone) = mpsc::channel(1);
    daemon.service.answers_with(move |question| {
        let (to, answer) = mpsc::channel(8);
        if question.text() == "Forever?" {
            let gone = gone.clone();
            tokio::spawn(async move {
                while to.send(AnswerItem::Token("… ".into())).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                let _ = gone.send(()).await;
            });
            return Ok(answer);
        }
        to.try_send(AnswerItem::Token(MARKUP.into())).unwrap();
        to.try_send(finished(super::answer(question.id(), MARKUP))).unwrap();
        Ok(answer)
    });
    let site = Site::serve(&daemon, "127.0.0.1:0".parse().unwrap()).await;
    let runtime = Handle::current();
    let url = site.url();
    let script = move || {
        browser::run("markup.mjs", &[&url, MARKUP], |wanted| {
            assert_eq!(wanted, "cancelled");
            let cancelled = timeout(SOON, is_gone.recv());
            runtime.block_on(cancelled).expect("the answer goes on");
        });
    };
    tokio::task::spawn_blocking(script).await.unwrap();
    site.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_waits_for_a_model_that_is_loading() {
    let daemon = Daemon::with_journal(MemoryJournal::shared(RUN, 100));
    daemon.caption("It is loaded.");
    let address: SocketAddr = format!("127.0.0.1:{}", free_port()).parse().unwrap();
    let loading = CancellationToken::new();
    let listener = Listener::bind(Interface::Http, address, 64).await.unwrap();
    let serving = tokio::spawn(publish::http::serve_loading(listener.clone(), loading.clone()));
    let runtime = Handle::current();
    let script = move || {
        let mut serving = Some(serving);
        browser::run("loading.mjs", &[&format!("http://{address}/")], |wanted| {
            assert_eq!(wanted, "load");
            runtime.block_on(async {
                loading.cancel();
                serving.take().expect("the model loads once").await.unwrap();
                let service = daemon.service.clone();
                let stop = CancellationToken::new();
                tokio::spawn(publish::http::serve(
                    listener.clone(),
                    Gate::open(service, stop.clone()),
                    metrics(),
                    stop,
                ));
            });
        });
    };
    tokio::task::spawn_blocking(script).await.unwrap();
}

/// `LOOKOUT_PAGE_SECONDS=600` measures the page's memory for ten minutes.
#[tokio::test(flavor = "multi_thread")]
async fn many_cameras_and_events_leave_the_page_quick() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::with_journal(store(folder.path()));
    *daemon.service.jpeg.lock().unwrap() = jpeg();
    *daemon.service.yard.lock().unwrap() = Some(CameraState::Live);
    let names: Vec<Arc<str>> = ["gate".into(), "yard".into()]
        .into_iter()
        .chain((3..=CAMERAS).map(|number| format!("camera {number:02}").into()))
        .collect();
    let more = names[2..].iter().map(|name| name.to_string());
    daemon.service.more_cameras.lock().unwrap().extend(more);
    let journal = daemon.service.journal.clone();
    let day = Duration::from_secs(86_400);
    let start = SystemTime::now() - day;
    for number in 0..EVENTS {
        let to = start + day.mul_f64(number as f64 / EVENTS as f64);
        let camera = names[(number % CAMERAS) as usize].clone();
        journal.append(camera, caption_at(&format!("A car, for the {number}th time."), to));
        if number % CHUNK == CHUNK - 1 {
            journal.flush();
        }
    }
    let site = Site::serve(&daemon, "127.0.0.1:0".parse().unwrap()).await;
    let live = tokio::spawn(async move {
        for number in 0_u64.. {
            let camera = names[(number % CAMERAS) as usize].clone();
            let text = format!("A dog, for the {number}th time.");
            journal.append(camera, caption_at(&text, SystemTime::now()));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let url = site.url();
    let script = move || browser::run("scale.mjs", &[&url], |wanted| panic!("{wanted}"));
    tokio::task::spawn_blocking(script).await.unwrap();
    live.abort();
    site.stop.cancel();
}
