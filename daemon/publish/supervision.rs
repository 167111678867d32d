//! Keeps an interface running: one that fails or panics is logged, counted and restarted after a
//! pause.
//!
//! Guarantees: neither the cameras nor the other interfaces are affected.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::PublishError;
use crate::backoff::{Backoff, SETTLED};
use crate::interface::Interface;
use crate::metrics;

const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Runs the future returned by `start` and restarts it whenever it ends. After `stop`, returns once
/// the current one has ended.
pub async fn supervise<F>(interface: Interface, stop: CancellationToken, start: impl Fn() -> F)
where
    F: Future<Output = Result<(), PublishError>> + Send + 'static,
{
    let mut backoff = Backoff::new(MAX_PAUSE);
    loop {
        let started = Instant::now();
        // A separate task catches a panic. It is aborted when this future is dropped.
        let mut running = JoinSet::new();
        running.spawn(start());
        let ended = running.join_next().await;
        if stop.is_cancelled() {
            return;
        }
        if started.elapsed() >= SETTLED {
            backoff.reset();
        }
        let why = match ended {
            Some(Ok(Err(error))) => error.to_string(),
            Some(Err(error)) if error.is_panic() => {
                "it panicked; see the panic message above".into()
            }
            _ => "it ended unexpectedly".into(),
        };
        let pause = backoff.pause(rand::random());
        let seconds = pause.as_secs_f64();
        tracing::error!("{interface} failed: {why}; it restarts in {seconds:.1} s");
        metrics::interface_restarted(interface);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn an_interface_that_panics_or_fails_is_restarted() {
        let stop = CancellationToken::new();
        let starts = Arc::new(AtomicUsize::new(0));
        let (count, until) = (starts.clone(), stop.clone());
        let interface = move || {
            let start = count.fetch_add(1, Ordering::Relaxed);
            let until = until.clone();
            async move {
                match start {
                    0 => panic!("a message that this interface cannot publish"),
                    1 => Err(PublishError::Serve {
                        interface: Interface::Grpc,
                        why: "broken".into(),
                    }),
                    2 => Ok(()),
                    _ => {
                        until.cancelled().await;
                        Ok(())
                    }
                }
            }
        };
        let supervised = tokio::spawn(supervise(Interface::Grpc, stop.clone(), interface));
        tokio::time::timeout(Duration::from_secs(20), async {
            while starts.load(Ordering::Relaxed) < 4 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .expect("the interface was not restarted");
        assert!(!supervised.is_finished());
        stop.cancel();
        supervised.await.unwrap();
        assert_eq!(starts.load(Ordering::Relaxed), 4);
    }

    #[tokio::test]
    async fn a_stop_ends_the_pause() {
        let (stop, starts) = (CancellationToken::new(), Arc::new(tokio::sync::Notify::new()));
        let started = starts.clone();
        let broken = move || {
            started.notify_one();
            async { Err(PublishError::Serve { interface: Interface::Http, why: "no".into() }) }
        };
        let supervised = tokio::spawn(supervise(Interface::Http, stop.clone(), broken));
        for _ in 0..3 {
            starts.notified().await;
        }
        // The third pause takes at least a second.
        let stopped = Instant::now();
        stop.cancel();
        supervised.await.unwrap();
        assert!(stopped.elapsed() < Duration::from_millis(500));
    }
}
