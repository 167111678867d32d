//! Tests live video: the encoded stream of a real camera becomes fragments of an MP4 file, which are
//! decoded again. The stream is recorded first, so that no test depends on the time that it takes.

use lookout::clips::Streams;
use lookout::config::Config;
use lookout::service::LiveItem;
use tokio::time::timeout;

use super::*;

/// A video that was watched until its end.
struct Watched {
    mime_type: String,
    file: Vec<u8>,
    fragments: usize,
    reason: String,
}

/// Records units of a camera that plays a video, at least three groups of pictures.
fn record(video: &str) -> Vec<AccessUnit> {
    let folder = folder();
    let (_server, recorded, running) = play(folder.path(), video);
    let units = recorded.wait("units", |state| {
        let keys = state.ring.units().filter(|unit| unit.is_key).count();
        (keys >= 4).then(|| state.ring.units().cloned().collect::<Vec<_>>())
    });
    running.stop();
    // The last group of pictures has only its key frame.
    let last = units.iter().rposition(|unit| unit.is_key).unwrap();
    units[..last].to_vec()
}

/// Returns the streams of a daemon whose rule makes clips of every camera.
fn streams() -> Streams {
    let config = "[model]\npackage = \"m\"\n[[camera]]\nname = \"gate\"\nurl = \"rtsp://h/v\"\n\
                  [[rule]]\nname = \"car\"\nquestion = \"Is there a car?\"\nclip = \"alert\"\n";
    let config = Config::parse(config, Path::new("/")).unwrap();
    let limits = Limits { age: PATIENCE * 2, bytes: 64 << 20 };
    Streams::new(limits, &config.rules, Arc::new(RunClock::start()))
}

/// Watches a stream that continues with `last` after its units, until the video ends.
fn watch(units: &[AccessUnit], last: AccessUnit) -> Watched {
    // A viewer that is too slow would leave out pictures: here none is.
    let begin = units[0].arrived_at;
    let at = |number: usize| begin + Duration::from_millis(number as u64);
    let units =
        units.iter().enumerate().map(|(n, unit)| AccessUnit { arrived_at: at(n), ..unit.clone() });
    let units: Vec<_> = units.collect();
    let last = AccessUnit { arrived_at: at(units.len()), ..last };
    let streams = streams();
    let recorder = streams.recorder(&"gate".into());
    // The video begins at the second of three key frames.
    let mut keys = (0..units.len()).filter(|n| units[*n].is_key);
    let begin = keys.nth(1).expect("a key frame") + 8;
    units[..begin].iter().for_each(|unit| recorder.unit(unit.clone()));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let watched = runtime.block_on(async {
        let watching = async {
            let mut video = streams.live("gate").expect("a video");
            let Some(LiveItem::Started { mime_type, head }) = video.recv().await else {
                panic!("the video does not begin")
            };
            let (mut file, mut fragments) = (head.to_vec(), 0);
            units[begin..].iter().for_each(|unit| recorder.unit(unit.clone()));
            recorder.unit(last);
            loop {
                match video.recv().await.expect("an end") {
                    LiveItem::Fragment(fragment) => {
                        file.extend(fragment);
                        fragments += 1;
                    }
                    LiveItem::Ended(reason) => {
                        return Watched { mime_type, file, fragments, reason };
                    }
                    other => panic!("{other:?}"),
                }
            }
        };
        timeout(PATIENCE, watching).await
    });
    watched.expect("the video does not end")
}

/// Returns the units with the times of a connection that goes on after them.
fn after(units: &[AccessUnit]) -> AccessUnit {
    let step = units.iter().map(|unit| unit.pts).max().unwrap() + Duration::from_millis(40);
    AccessUnit { pts: step, ..units[0].clone() }
}

fn watch_and_decode(video: &str, codec: &str) {
    let units = record(video);
    let watched = watch(&units, AccessUnit { connection: 99, ..after(&units) });
    assert_eq!(watched.reason, "the camera was connected again");
    assert!(
        watched.mime_type.starts_with(&format!("video/mp4; codecs=\"{codec}.")),
        "{}",
        watched.mime_type
    );
    let keys: Vec<_> = (0..units.len()).filter(|n| units[*n].is_key).collect();
    // Leading pictures are left out, and the newest ones are not written yet.
    let possible = units.len() - keys[1];
    assert!(watched.fragments + 8 >= possible, "{} of {possible} pictures", watched.fragments);
    let folder = folder();
    let file = folder.path().join("live.mp4");
    std::fs::write(&file, &watched.file).unwrap();
    let pictures = decode(&file);
    assert_eq!(pictures.len(), watched.fragments, "pictures are missing");
    // The file has the times of the stream, from the key frame's on.
    let begin = units[keys[1]].pts;
    let shown = units[keys[1]..].iter().map(|unit| unit.pts).filter(|pts| *pts >= begin);
    let times = times(&file);
    assert_eq!(times.len(), watched.fragments);
    for (at, pts) in times.iter().zip(shown) {
        let (at, wanted) =
            (*at - times[0], pts - begin - Duration::from_millis(1).min(pts - begin));
        // Pictures are shown later from where they overtake each other by more than before.
        let late = at.checked_sub(wanted).unwrap_or_else(|| panic!("{at:?} is before {wanted:?}"));
        assert!(late < Duration::from_millis(60), "{at:?}, wanted {wanted:?}");
    }
}

/// Returns the times of presentation in an MP4 file, in the order of decoding.
fn times(file: &Path) -> Vec<Duration> {
    let launch =
        format!("filesrc location={} ! qtdemux ! appsink name=sink sync=false", file.display());
    let pipeline = gst::parse::launch(&launch).unwrap().downcast::<gst::Pipeline>().unwrap();
    let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let mut times = Vec::new();
    while let Ok(sample) = sink.pull_sample() {
        times.push(sample.buffer().and_then(|buffer| buffer.pts()).expect("a time").into());
    }
    pipeline.set_state(gst::State::Null).unwrap();
    times
}

#[test]
fn live_video_of_h264_with_b_frames_can_be_decoded() {
    watch_and_decode("b-frames.h264.mp4", "avc1");
}

#[test]
fn live_video_of_h265_with_open_groups_can_be_decoded() {
    watch_and_decode("open-gop.h265.mp4", "hvc1");
}

#[test]
fn live_video_ends_if_the_stream_can_no_longer_follow_its_head() {
    let units = record("b-frames.h264.mp4");
    let next = after(&units);
    let later = AccessUnit { pts: next.pts + Duration::from_secs(3600), ..next.clone() };
    assert_eq!(watch(&units, later).reason, "the clock of the camera's stream was set");
    let mut data = next.data.to_vec();
    let set = data.windows(4).position(|bytes| bytes == [0, 0, 1, 0x67]).expect("an SPS");
    data[set + 6] += 1;
    let changed = AccessUnit { data: data.into(), ..next };
    assert_eq!(watch(&units, changed).reason, "the camera changed its format");
}
