//! Runs the requests of a test on a language back end.
#![allow(dead_code)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use lookout::language::{Failure, LanguageBackend, LanguageError, Output, Reply, Request, Scored};

pub const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub enum End {
    Reply(Reply),
    Scored(Scored),
}

/// Runs one request to its end. Returns the text that was streamed, too.
pub fn run(
    model: &mut impl LanguageBackend,
    request: Request<'_>,
) -> (String, Result<End, LanguageError>) {
    let id = match model.submit(request) {
        Ok(submitted) => submitted.id,
        Err(error) => return (String::new(), Err(error)),
    };
    let (mut streamed, mut end) = (String::new(), None);
    let begun = Instant::now();
    while end.is_none() {
        assert!(begun.elapsed() < 2 * PATIENCE, "no end");
        let polled = model.poll(&mut |from, output| {
            assert_eq!(from, id);
            match output {
                Output::Text(text) => streamed += text,
                Output::Finished(reply) => end = Some(Ok(End::Reply(reply))),
                Output::Scored(scored) => end = Some(Ok(End::Scored(scored))),
                Output::Failed(failure) => end = Some(Err(failure.into())),
            }
        });
        polled.expect("a poll");
    }
    (streamed, end.expect("an end"))
}

/// Asks a question that must be answered.
pub fn ask(model: &mut impl LanguageBackend, request: Request<'_>) -> Reply {
    let (streamed, end) = run(model, request);
    let Ok(End::Reply(reply)) = end else { panic!("{:?}", end.err()) };
    assert_eq!(streamed.trim_end(), reply.text);
    reply
}

/// Scores questions that must be scored.
pub fn scored(model: &mut impl LanguageBackend, request: Request<'_>) -> Scored {
    match run(model, request).1 {
        Ok(End::Scored(scored)) => scored,
        other => panic!("{:?}", other.err()),
    }
}

/// Makes a request that must fail because of the servers. Returns the text before the failure, and
/// the reason.
pub fn failure(model: &mut impl LanguageBackend, request: Request<'_>) -> (String, String) {
    match run(model, request) {
        (streamed, Err(LanguageError::Failed(Failure::Server(why)))) => (streamed, why),
        (_, other) => panic!("{other:?}"),
    }
}

/// Polls until it is so.
pub fn wait_until(what: &str, mut ready: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !ready() {
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Returns questions as a request has them.
pub fn questions<const N: usize>(texts: [&str; N]) -> Vec<Arc<str>> {
    texts.map(Arc::from).into()
}
