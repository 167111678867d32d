//! Captions counted over time: on disk as in memory.

use super::*;
use crate::journal::{Bucket, DensityQuery};

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_760_000_000 + seconds)
}

fn caption_of(from: u64, to: u64) -> Body {
    let Body::Caption(mut caption) = caption("a car") else { unreachable!() };
    caption.inference.window = Span { from: at(from), to: at(to) };
    Body::Caption(caption)
}

#[tokio::test]
async fn captions_are_counted_by_the_ends_of_their_windows() {
    let folder = tempfile::tempdir().unwrap();
    let (stored, memory) = (begin(&folder, RUN), MemoryJournal::shared(RUN, 100));
    for journal in [&stored, &memory] {
        for (camera, from, to) in
            [("gate", 0, 8), ("gate", 4, 12), ("yard", 2, 10), ("gate", 12, 20), ("gate", 92, 100)]
        {
            journal.append(camera.into(), caption_of(from, to));
        }
        journal.append("gate".into(), status());
        journal.flush();
    }
    let span = Span { from: at(8), to: at(100) };
    for journal in [stored, memory] {
        let query = DensityQuery { cameras: Vec::new(), span, bucket: Duration::from_secs(10) };
        let density = journal.density(query.clone()).await.unwrap();
        let bucket = |captions, from, to| {
            let covered = Span { from: at(from), to: at(to) };
            Bucket { captions, covered }
        };
        let gate: Vec<_> = density.0["gate"].clone().into_iter().collect();
        // The end of the last window is not within the span.
        assert_eq!(gate, [(0, bucket(2, 0, 12)), (1, bucket(1, 12, 20))]);
        assert_eq!(density.0["yard"][&0], bucket(1, 2, 10));
        let yard = DensityQuery { cameras: vec!["yard".into()], ..query };
        let density = journal.density(yard).await.unwrap();
        assert_eq!(density.0.keys().collect::<Vec<_>>(), ["yard"]);
    }
}
