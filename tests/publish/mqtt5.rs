//! Tests what only MQTT 5 has: properties of messages, and replies to a response topic.

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish, PublishProperties};
use rumqttc::v5::{AsyncClient, Event as V5Event, MqttOptions};

use super::*;

/// An MQTT 5 client that subscribes to everything.
struct Client {
    client: AsyncClient,
    messages: mpsc::Receiver<Publish>,
}

impl Client {
    async fn connect(port: u16) -> Client {
        let name = format!("test-{}", rand::random::<u32>());
        let (client, mut events) = AsyncClient::new(MqttOptions::new(name, "127.0.0.1", port), 100);
        let (to, messages) = mpsc::channel(1000);
        let (subscribed, mut is_subscribed) = mpsc::channel(1);
        client.subscribe("#", QoS::AtLeastOnce).await.unwrap();
        tokio::spawn(async move {
            while let Ok(event) = events.poll().await {
                match event {
                    V5Event::Incoming(Packet::SubAck(_)) => subscribed.send(()).await.unwrap(),
                    V5Event::Incoming(Packet::Publish(message)) => {
                        let _ = to.send(message).await;
                    }
                    _ => {}
                }
            }
        });
        timeout(SOON, is_subscribed.recv()).await.unwrap().unwrap();
        Client { client, messages }
    }

    async fn next_on(&mut self, topic: &str) -> Publish {
        loop {
            let message = timeout(SOON, self.messages.recv()).await.expect(topic).unwrap();
            if message.topic == topic {
                return message;
            }
        }
    }

    /// Asks the camera `gate` and wants the reply on a response topic.
    async fn ask(&self, question: &str, topic: &str, correlation: &'static [u8]) {
        let properties = PublishProperties {
            response_topic: Some(topic.into()),
            correlation_data: Some(correlation.into()),
            ..PublishProperties::default()
        };
        let (topic, question) = ("lookout/gate/ask", question.to_owned());
        let qos = QoS::AtLeastOnce;
        self.client.publish_with_properties(topic, qos, false, question, properties).await.unwrap();
    }
}

fn json(message: &Publish) -> Value {
    serde_json::from_slice(&message.payload).unwrap()
}

fn properties(message: &Publish) -> PublishProperties {
    message.properties.clone().unwrap_or_default()
}

#[tokio::test]
async fn messages_say_what_they_contain_and_when_they_expire() {
    let broker = Broker::start();
    let daemon = Daemon::start(100).await;
    let mut client = Client::connect(broker.port).await;
    let publisher = Publisher::connected(&daemon, mqtt_config(broker.port), broker.port).await;
    let event = daemon.caption("calm");
    let of_event = [("run", event.id.run), ("sequence", event.id.sequence)]
        .map(|(name, value)| (name.to_owned(), value.to_string()));
    for (topic, content_type, is_text, expires) in [
        ("last_caption", "application/json", true, false),
        ("last_caption_text", "text/plain", true, false),
        ("caption", "application/json", true, true),
        ("last_frame", "image/jpeg", false, false),
    ] {
        let message = client.next_on(&format!("lookout/gate/{topic}")).await;
        let properties = properties(&message);
        assert_eq!(properties.content_type.as_deref(), Some(content_type), "{topic}");
        assert_eq!(properties.payload_format_indicator, is_text.then_some(1), "{topic}");
        assert_eq!(properties.user_properties, of_event, "{topic}");
        // The config of these tests has an hour.
        let expiry = properties.message_expiry_interval;
        assert_eq!(expiry.is_some_and(|s| (3000..=3600).contains(&s)), expires, "{expiry:?}");
    }
    publisher.stop().await;
}

#[tokio::test]
async fn a_reply_goes_to_the_response_topic_too() {
    let broker = Broker::start();
    let daemon = Daemon::start(100).await;
    let service = daemon.service.clone();
    daemon.service.answers_with(move |question| {
        let (to, items) = mpsc::channel(4);
        if question.text() == "broken?" {
            to.try_send(AnswerItem::Failed(AskError::ModelFailed("nan".into()))).unwrap();
            return Ok(items);
        }
        let answer = Body::Answer(answer(question.id(), "Yes."));
        let event = service.journal.append("gate".into(), answer);
        to.try_send(AnswerItem::Finished(event)).unwrap();
        Ok(items)
    });
    let publisher = Publisher::connected(&daemon, mqtt_config(broker.port), broker.port).await;
    let mut client = Client::connect(broker.port).await;
    let (answers, replies) = ("lookout/gate/answer", "app/replies");

    client.ask(r#"{"question_id":"q1","question":"Open?"}"#, replies, b"\0\x01").await;
    let reply = client.next_on(replies).await;
    assert_eq!(json(&reply)["question_id"], "q1");
    assert_eq!(json(&reply)["kind"], "answer");
    let of_reply = properties(&reply);
    assert_eq!(of_reply.correlation_data.as_deref(), Some(&b"\0\x01"[..]));
    assert_eq!(of_reply.content_type.as_deref(), Some("application/json"));

    // A question that fails, and one that is refused at once.
    for (question, id) in [
        (r#"{"question_id":"q2","question":"broken?"}"#, "q2"),
        (r#"{"question_id":"q3","question":"Open?","last":-1}"#, "q3"),
    ] {
        client.ask(question, replies, b"again").await;
        let mut refusal = client.next_on(answers).await;
        // The answer to the first question may arrive after its reply.
        if json(&refusal)["question_id"] == "q1" {
            refusal = client.next_on(answers).await;
        }
        let reply = client.next_on(replies).await;
        assert_eq!(json(&reply), json(&refusal));
        assert_eq!(json(&reply)["kind"], "refused");
        assert_eq!(json(&reply)["question_id"], id);
        assert_eq!(properties(&reply).correlation_data.as_deref(), Some(&b"again"[..]));
        assert_eq!(properties(&refusal).correlation_data, None);
    }

    // A client cannot have the daemon publish on the daemon's own topics.
    let own = "lookout/gate/status";
    client.ask(r#"{"question_id":"q4","question":"Open?"}"#, own, b"x").await;
    let refusal = json(&client.next_on(answers).await);
    assert_eq!(refusal["question_id"], "q4");
    assert!(refusal["message"].as_str().unwrap().contains("response topic"), "{refusal}");
    publisher.stop().await;
}
