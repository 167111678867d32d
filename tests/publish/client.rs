//! Tests the client behind `lookout cameras`, `watch`, `ask` and `frame`.

use super::*;

#[tokio::test]
async fn several_daemons_are_watched_as_one() {
    let (north, south) = (Daemon::start(10).await, Daemon::start(10).await);
    let watch = async |address: &str, output, lines| {
        let mut out = Lines::until(lines);
        let filter = Filter { from: Some(FIRST), ..Filter::default() };
        let watching = lookout::client::watch_all(address, filter, output, &mut out);
        let done = timeout(SOON, watching).await.expect("an end");
        done.map(|()| out.lines().map(str::to_owned).collect::<Vec<_>>())
    };
    let both = format!("{}, {}", north.grpc, south.grpc);
    let printed = [(&north, "A dog."), (&south, "A car.")].map(|(daemon, text)| {
        let mut json = serde_json::to_value(&*daemon.caption(text)).unwrap();
        json["daemon"] = daemon.grpc.trim_start_matches("http://").into();
        json
    });
    let lines = watch(&both, Output::Json, 2).await.unwrap();
    let mut found: Vec<Value> = lines.iter().map(|l| serde_json::from_str(l).unwrap()).collect();
    found.sort_by_key(|event| event["daemon"] != printed[0]["daemon"]);
    assert_eq!(found, printed);

    let lines = watch(&both, Output::Text, 2).await.unwrap();
    for event in &printed {
        let begins = |line: &String| line.starts_with(event["daemon"].as_str().unwrap());
        let of_daemon: Vec<_> = lines.iter().filter(|line| begins(line)).collect();
        assert_eq!(of_daemon.len(), 1, "{lines:?}");
        assert!(of_daemon[0].contains(event["text"].as_str().unwrap()), "{lines:?}");
    }

    let one = watch(&north.grpc, Output::Json, 1).await.unwrap();
    assert!(!one[0].contains("\"daemon\""), "{one:?}");

    // One that is missing is named. Nothing listens on that port.
    let error = watch(&format!("{},127.0.0.1:1", north.grpc), Output::Json, 9).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("not reachable at 127.0.0.1:1:"), "{error}");
}

#[tokio::test]
async fn the_client_prints_for_people() {
    let daemon = Daemon::start(10).await;
    let mut out = Vec::new();
    lookout::client::cameras(&daemon.grpc, Output::Text, &mut out).await.unwrap();
    let table = String::from_utf8(out).unwrap();
    assert!(table.contains("gate    live"), "{table}");
    assert!(table.contains("rtsp://camera.example/1"), "{table}");

    daemon.caption("A red car\ndrives.");
    let mut out = Lines::until(1);
    let filter = Filter { from: Some(FIRST), ..Filter::default() };
    lookout::client::watch(&daemon.grpc, filter, Output::Text, OnEnd::Return, &mut out)
        .await
        .unwrap();
    let line = out.lines().next().unwrap().to_owned();
    let printed = "  gate      A red car drives.   [2/4 frames, 0.21 s, \
                 cpu (auto: libcuda.so.1 is missing), gap ";
    assert!(line.contains(printed), "{line}");
    assert!(line.ends_with(" (camera down)]"), "{line}");

    daemon.service.answers_with(|question| {
        let (to, items) = mpsc::channel(4);
        to.try_send(AnswerItem::Token("Ye".into())).unwrap();
        to.try_send(AnswerItem::Token("s.".into())).unwrap();
        to.try_send(finished(answer(question.id(), "Yes."))).unwrap();
        Ok(items)
    });
    let asked = |cameras: &[&str]| -> Vec<Question> {
        let draft = |camera: &str| Draft {
            camera: camera.into(),
            text: "Open?".into(),
            ..Draft::default()
        };
        let question = |camera: &&str| Question::new(draft(camera), &Limits::unknown()).unwrap();
        cameras.iter().map(question).collect()
    };
    let mut out = Vec::new();
    lookout::client::ask(&daemon.grpc, &asked(&["gate"]), Output::Text, &mut out).await.unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.starts_with("Yes.\n[2/4 frames"), "{text}");

    let mut out = Vec::new();
    lookout::client::ask(&daemon.grpc, &asked(&["gate"]), Output::Json, &mut out).await.unwrap();
    let json: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!((&json["kind"], &json["camera"]), (&"answer".into(), &"gate".into()));
    assert!(json["question_id"].as_str().unwrap().starts_with("grpc-"));

    // If one of several cameras has no answer, this is reported, and the other answers anyway.
    let both = || asked(&["gate", "yard"]);
    let no_frames = AskError::NoFrames { camera: "gate".into(), why: "no frames".into() };
    let failed = AskError::ModelFailedTemporarily("out of memory".into());
    for (refusal, reason) in [(no_frames, "NO_FRAMES"), (failed, "MODEL_FAILED_TEMPORARILY")] {
        daemon.service.answers_with(move |question| match question.camera() {
            "gate" => Err(refusal.clone()),
            _ => {
                let (to, items) = mpsc::channel(4);
                to.try_send(AnswerItem::Token("No.".into())).unwrap();
                to.try_send(finished(answer(question.id(), "No."))).unwrap();
                Ok(items)
            }
        });
        let mut out = Vec::new();
        let error =
            lookout::client::ask(&daemon.grpc, &both(), Output::Text, &mut out).await.unwrap_err();
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("yard: No.\n[2/4 frames"), "{text}");
        assert_eq!(error.to_string(), format!("camera \"gate\" gave no answer ({reason})"));
    }
    let unknown = asked(&["gate", "gaet"]);
    let error = lookout::client::ask(&daemon.grpc, &unknown, Output::Text, &mut Vec::new()).await;
    assert_eq!(error.unwrap_err().to_string(), "no camera is named \"gaet\"");

    // Parts are printed as they arrive, and the answer after them. An answer that only lists the
    // parts is not printed again.
    for (method, printed) in
        [(SummaryMethod::YesNo, "Yes, in 1 of 2 parts.\n"), (SummaryMethod::List, "")]
    {
        daemon.service.answers_with(move |question| {
            let mut whole = answer(question.id(), "Yes, in 1 of 2 parts.");
            (whole.summary_method, whole.parts) = (Some(method), vec![part("No."), part("Yes.")]);
            let (to, items) = mpsc::channel(4);
            for part in whole.parts.clone() {
                to.try_send(AnswerItem::Part(Box::new(part))).unwrap();
            }
            to.try_send(AnswerItem::Token(whole.inference.text.clone())).unwrap();
            to.try_send(finished(whole)).unwrap();
            Ok(items)
        });
        let mut out = Vec::new();
        lookout::client::ask(&daemon.grpc, &both(), Output::Text, &mut out).await.unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let of_yard = lines.iter().position(|line| *line == "yard:\n").expect("yard");
        for (camera, lines) in [("gate:\n", &lines[..of_yard]), ("yard:\n", &lines[of_yard..])] {
            assert_eq!(lines[0], camera);
            assert!(lines[1].ends_with("  No.\n") && lines[2].ends_with("  Yes.\n"), "{text}");
            assert_eq!(lines[3..lines.len() - 1].concat(), printed);
            assert!(lines.last().is_some_and(|line| line.contains(", in 2 parts")), "{text}");
        }
        let mut out = Vec::new();
        lookout::client::ask(&daemon.grpc, &both(), Output::Json, &mut out).await.unwrap();
        let json = String::from_utf8(out).unwrap();
        assert_eq!(json.lines().count(), 2, "{json}");
    }

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("frame.jpg");
    let mut out = Vec::new();
    lookout::client::frame(&daemon.grpc, "gate", (None, 7), &path, &mut out).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"a jpeg");
}

#[tokio::test]
async fn a_missing_daemon_is_reported() {
    let address = format!("127.0.0.1:{}", free_port());
    let error =
        lookout::client::cameras(&address, Output::Text, &mut Vec::new()).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }));
    let text = error.to_string();
    assert!(text.contains(&address) && text.contains("is the daemon running?"), "{text}");
}

#[tokio::test]
async fn a_watch_reconnects_to_the_daemon() {
    let mut daemon = Daemon::start(10).await;
    daemon.caption("before");
    let mut out = Lines::until(2);
    let filter = Filter { from: Some(FIRST), ..Filter::default() };
    let endpoint = daemon.grpc.clone();
    let watching =
        lookout::client::watch(&endpoint, filter, Output::Json, OnEnd::Reconnect, &mut out);
    let restart = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        daemon.stop.cancel();
        daemon.serving.take().unwrap().await.unwrap().unwrap();
        daemon.caption("between");
        daemon.serve_again().await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        watched = timeout(SOON, watching) => watched.unwrap().unwrap(),
        () = restart => {}
    }
    let texts: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&texts[0]["text"], &texts[1]["text"]), (&"before".into(), &"between".into()));
}
