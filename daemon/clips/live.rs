//! Live video: the encoded stream of a camera as fragments of an MP4 file, while it arrives.
//!
//! Guarantees: no unit is copied for a camera without clips unless somebody watches. A viewer begins
//! with a key frame. One that reads too slowly skips to the newest key frame, and delays nobody. The
//! video ends if the stream can no longer follow the head of the file: after a new connection, or a
//! change of the format or of the stream's clock. The viewer then begins again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::Stream;
use super::codec_string::codec_string;
use super::cut::jumps;
use super::fragments::Fragments;
use crate::access_unit::AccessUnit;
use crate::camera;
use crate::service::{LiveItem, LiveStream};

/// Number of fragments that wait for a viewer. Further units wait in the ring.
const FRAGMENTS: usize = 4;

/// Time by which a viewer may be behind before it skips to the newest key frame.
const BEHIND: Duration = Duration::from_secs(3);

/// Number of units after which a video begins, and the age of its key frame at which it begins with
/// fewer. From them the order of the pictures is learnt.
const LEARNT: usize = 6;
const WAITED: Duration = Duration::from_millis(400);

/// A viewer of a stream. While it lives, the stream is wanted.
struct Viewer {
    stream: Arc<Stream>,
    /// Reports new units.
    changed: Option<watch::Receiver<()>>,
}

/// The beginning of a video.
struct Begin {
    /// Number of the key frame.
    number: u64,
    key: AccessUnit,
    /// The units of its connection that are held.
    history: Vec<AccessUnit>,
}

/// The next thing that a viewer does.
enum Next {
    Unit(AccessUnit),
    /// Units were left out up to this one.
    Skipped(u64, AccessUnit),
    Wait,
    End(String),
}

/// Begins the live video of a stream. It ends when the receiver is dropped.
pub fn watch(stream: Arc<Stream>) -> LiveStream {
    let (to, items) = mpsc::channel(FRAGMENTS);
    let viewer = Viewer { changed: Some(stream.changed.subscribe()), stream };
    tokio::spawn(async move {
        tokio::select! {
            () = to.closed() => {}
            end = run(viewer, &to) => drop(to.send(end).await),
        }
    });
    items
}

/// Sends the video. Returns its end.
async fn run(mut viewer: Viewer, to: &mpsc::Sender<LiveItem>) -> LiveItem {
    match viewer.begin().await {
        Ok(begin) => LiveItem::Ended(show(viewer, begin, to).await),
        Err(reason) => LiveItem::Unavailable(reason),
    }
}

/// Sends the video from its beginning. Returns the reason for its end.
async fn show(mut viewer: Viewer, begin: Begin, to: &mpsc::Sender<LiveItem>) -> String {
    let Begin { mut number, key, history } = begin;
    let first = key.clone();
    let head = tokio::task::spawn_blocking(move || camera::mp4_head(&first)).await;
    let head: Bytes = match head {
        Ok(Ok(head)) => head.into(),
        Ok(Err(error)) => return error.to_string(),
        Err(_) => return "the head of the video cannot be written".into(),
    };
    let Some(codec) = codec_string(&head) else {
        return "the head of the video has no description of the codec".into();
    };
    let mime_type = format!("video/mp4; codecs=\"{codec}\"");
    let mut fragments = Fragments::new(&key, &history);
    let parameter_sets = key.parameter_sets();
    let mut last = key;
    let mut item = Some(LiveItem::Started { mime_type, head });
    loop {
        if let Some(item) = item.take()
            && to.send(item).await.is_err()
        {
            return String::new();
        }
        let unit = match viewer.next(number) {
            Next::Unit(unit) => unit,
            Next::Skipped(_, key) if key.connection == last.connection && key.pts <= last.pts => {
                return "what the camera sent was deleted".into();
            }
            Next::Skipped(key_number, key) => {
                number = key_number;
                fragments.skip_to(&key);
                key
            }
            Next::Wait => {
                viewer.changed().await;
                continue;
            }
            Next::End(reason) => return reason,
        };
        number += 1;
        if unit.connection != last.connection || unit.codec != last.codec {
            return "the camera was connected again".into();
        }
        if jumps(&last, &unit) {
            return "the clock of the camera's stream was set".into();
        }
        if unit.is_key && unit.parameter_sets() != parameter_sets {
            return "the camera changed its format".into();
        }
        last = unit.clone();
        item = fragments.push(unit).map(LiveItem::Fragment);
    }
}

impl Viewer {
    /// Waits for a key frame and enough units after it.
    async fn begin(&mut self) -> Result<Begin, String> {
        loop {
            if let Some(begin) = self.ready()? {
                return Ok(begin);
            }
            self.changed().await;
        }
    }

    fn ready(&self) -> Result<Option<Begin>, String> {
        let state = self.stream.state();
        if let Some(reason) = &state.unsupported {
            return Err(reason.clone());
        }
        let Some((number, key)) = state.ring.newest_key() else { return Ok(None) };
        let newest = state.arrived_at.unwrap_or_default();
        let history: Vec<AccessUnit> =
            state.ring.units().filter(|unit| unit.connection == key.connection).cloned().collect();
        let is_learnt = history.len() >= LEARNT || newest.saturating_sub(key.arrived_at) >= WAITED;
        Ok(is_learnt.then(|| Begin { number, key: key.clone(), history }))
    }

    /// Returns the unit of a number, or what comes in its place.
    fn next(&self, number: u64) -> Next {
        let state = self.stream.state();
        if let Some(reason) = &state.unsupported {
            return Next::End(reason.clone());
        }
        let unit = state.ring.get(number);
        let newest = state.arrived_at.unwrap_or_default();
        let is_late = match unit {
            Some(unit) => newest.saturating_sub(unit.arrived_at) > BEHIND,
            None => number < state.ring.oldest(),
        };
        match (state.ring.newest_key(), unit) {
            (Some((key_number, key)), _) if is_late && key_number > number => {
                Next::Skipped(key_number, key.clone())
            }
            (_, Some(unit)) => Next::Unit(unit.clone()),
            // The ring dropped everything up to the next key frame, or the unit has not come yet.
            (_, None) => Next::Wait,
        }
    }

    /// Waits until the stream has changed since the last call.
    async fn changed(&mut self) {
        if let Some(changed) = &mut self.changed
            && changed.changed().await.is_err()
        {
            // The stream lives as long as its viewers, so that its sender does.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.changed = None;
        self.stream.viewer_left();
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::super::{Limits, Ring};
    use super::*;
    use crate::access_unit::VideoCodec;
    use crate::camera::Recorder;

    fn unit(milliseconds: u64, is_key: bool) -> AccessUnit {
        let time = Duration::from_millis(milliseconds);
        AccessUnit {
            codec: VideoCodec::H264,
            data: Bytes::from_static(&[0, 0, 1, 0x65, 2, 3]),
            is_key,
            pts: time,
            connection: 1,
            captured_at: SystemTime::UNIX_EPOCH + time,
            arrived_at: time,
        }
    }

    fn stream(has_clips: bool) -> Arc<Stream> {
        let limits = Limits { age: Duration::from_secs(60), bytes: 1 << 20 };
        Arc::new(Stream::new(Ring::new(limits), has_clips))
    }

    fn viewer(stream: &Arc<Stream>) -> Viewer {
        Viewer { changed: Some(stream.changed.subscribe()), stream: stream.clone() }
    }

    #[test]
    fn a_stream_without_clips_is_held_only_while_somebody_watches() {
        let (idle, with_clips) = (stream(false), stream(true));
        assert!(!idle.is_wanted() && with_clips.is_wanted());
        let (first, second) = (viewer(&idle), viewer(&idle));
        drop(first);
        assert!(idle.is_wanted());
        idle.unit(unit(0, true));
        drop(second);
        assert!(!idle.is_wanted() && idle.state().ring.bytes() == 0);
        with_clips.unit(unit(0, true));
        drop(viewer(&with_clips));
        assert!(with_clips.state().ring.bytes() > 0);
    }

    #[test]
    fn a_video_begins_at_the_newest_key_frame_when_its_order_is_known() {
        let stream = stream(false);
        let viewer = viewer(&stream);
        stream.unit(unit(0, true));
        assert!(viewer.ready().unwrap().is_none());
        stream.unit(unit(500, false));
        assert_eq!(viewer.ready().unwrap().map(|begin| begin.number), Some(0));
        stream.unit(unit(1000, true));
        (0..4).for_each(|n| stream.unit(unit(1040 + n * 40, false)));
        let begin = viewer.ready().unwrap().expect("a beginning");
        assert_eq!((begin.number, begin.history.len()), (2, 7));
        stream.unsupported("the camera sends MJPEG".into());
        assert_eq!(viewer.ready().err().as_deref(), Some("the camera sends MJPEG"));
    }

    #[test]
    fn a_viewer_that_is_too_slow_skips_to_the_newest_key_frame() {
        let stream = stream(true);
        let viewer = viewer(&stream);
        // A key frame each second.
        (0..80).for_each(|n| stream.unit(unit(n * 100, n % 10 == 0)));
        let number = |next| match next {
            Next::Unit(unit) => ("next", unit.pts.as_millis()),
            Next::Skipped(_, key) => ("skipped", key.pts.as_millis()),
            Next::Wait => ("wait", 0),
            Next::End(_) => ("end", 0),
        };
        assert_eq!(number(viewer.next(3)), ("skipped", 7000));
        assert_eq!(number(viewer.next(49)), ("next", 4900));
        assert_eq!(number(viewer.next(80)), ("wait", 0));
        // No key frame has come for long: the viewer reads on.
        (80..200).for_each(|n| stream.unit(unit(n * 100, false)));
        assert_eq!(number(viewer.next(75)), ("next", 7500));
        // Units that have left the ring.
        stream.state().ring.clear();
        assert_eq!(number(viewer.next(75)), ("wait", 0));
        stream.unit(unit(20_000, true));
        assert_eq!(number(viewer.next(75)), ("skipped", 20_000));
    }
}
