//! Tests the calls about single events over gRPC, with a journal in memory.

use tonic_types::StatusExt;

use super::*;

fn reason(status: &tonic::Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

fn id(sequence: u64) -> Option<proto::EventId> {
    Some(proto::EventId { run: None, sequence })
}

#[tokio::test]
async fn an_event_and_its_frames_are_returned() {
    let daemon = Daemon::start(10).await;
    let event = daemon.caption("A red car.");
    let mut client = daemon.client().await;
    let request = proto::GetEventRequest { event: id(1) };
    let found = client.get_event(request).await.unwrap().into_inner().event.unwrap();
    assert_eq!(found.uuid, event.uuid.to_string());
    assert!(!found.kept);
    let request = proto::GetEventFramesRequest { event: id(1) };
    let mut stream = client.get_event_frames(request).await.unwrap().into_inner();
    let mut frames = Vec::new();
    while let Some(proto::GetEventFramesResponse { frame, jpeg }) = stream.message().await.unwrap()
    {
        let frame = frame.unwrap();
        frames.push((frame.id.unwrap().number, frame.slow, jpeg));
    }
    // The buffer has only one of the two.
    assert_eq!(frames, [(4, true, Some(b"jpeg 4".to_vec())), (6, false, None)]);
    // An alert has frames as well: those of its newest window.
    daemon.service.journal.append("gate".into(), alert("person", "a1"));
    let request = proto::GetEventFramesRequest { event: id(2) };
    let mut stream = client.get_event_frames(request).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().expect("a frame of the alert");
    assert_eq!(first.jpeg.as_deref(), Some(&b"jpeg 4"[..]));

    let folder = tempfile::tempdir().unwrap();
    let mut out = Lines::until(1);
    let saving =
        lookout::client::frames(&daemon.grpc, FIRST, folder.path(), Output::Text, &mut out);
    timeout(SOON, saving).await.unwrap().unwrap();
    let file = folder.path().join("gate-1-4.jpg");
    assert_eq!(out.text.trim(), file.display().to_string());
    assert_eq!(std::fs::read(file).unwrap(), b"jpeg 4");

    let request = proto::GetEventRequest { event: id(3) };
    let status = client.get_event(request).await.unwrap_err();
    assert_eq!((status.code(), &*reason(&status)), (Code::NotFound, "EVENT_NOT_FOUND"));
    let status = client.get_event(proto::GetEventRequest { event: None }).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let request = proto::KeepEventRequest { event: id(1), clear: false };
    let status = client.keep_event(request).await.unwrap_err();
    assert_eq!((status.code(), &*reason(&status)), (Code::FailedPrecondition, "NO_STORE"));
}

#[tokio::test]
async fn events_of_a_span_are_deleted() {
    let daemon = Daemon::start(10).await;
    daemon.caption("A red car.");
    daemon.yard_is(CameraState::Live);
    let mut client = daemon.client().await;
    let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let request = |from, to| proto::DeleteEventsRequest {
        span: Some(proto::Span { from, to }),
        ..Default::default()
    };
    for (from, to) in [(None, time(5)), (time(5), None), (time(5), time(5)), (time(5), time(4))] {
        let status = client.delete_events(request(from, to)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{from:?} {to:?}");
    }
    let status = client.delete_events(proto::DeleteEventsRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    // The window of the caption begins at 1,760,000,000.123 s and takes 8 s.
    let mut deleted = async |from, to| {
        let reply = client.delete_events(request(time(from), time(to))).await.unwrap();
        reply.into_inner().events
    };
    assert_eq!(deleted(1_759_999_000, 1_760_000_000).await, 0);
    assert_eq!(deleted(1_760_000_009, 1_760_000_010).await, 0);
    assert_eq!(deleted(1_760_000_008, 1_760_000_010).await, 1);
    assert_eq!(deleted(1_760_000_008, 1_760_000_010).await, 0);
    assert_eq!(deleted(0, 253_402_300_799).await, 1);
    assert!(daemon.service.journal.get(None, 1).is_none());
}
