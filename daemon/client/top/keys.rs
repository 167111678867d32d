//! Reads the keys and the changes of the terminal's size.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ratatui::crossterm::event::{self, Event};
use tokio::sync::mpsc;

/// Interval at which the thread looks whether it should end.
const POLL: Duration = Duration::from_millis(100);

/// The events of the terminal. Dropping it ends its thread.
pub struct Keys {
    events: mpsc::Receiver<Event>,
    ends: Arc<AtomicBool>,
}

impl Keys {
    pub fn read() -> Keys {
        let (to, events) = mpsc::channel(64);
        let ends = Arc::new(AtomicBool::new(false));
        let end = ends.clone();
        std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                let read = match event::poll(POLL) {
                    Ok(false) => continue,
                    Ok(true) => event::read(),
                    Err(error) => Err(error),
                };
                // A terminal that was closed cannot be read. The receiver then ends, too.
                let Ok(event) = read else { return };
                if to.blocking_send(event).is_err() {
                    return;
                }
            }
        });
        Keys { events, ends }
    }

    /// Returns the next event, or `None` if the terminal is gone.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}
