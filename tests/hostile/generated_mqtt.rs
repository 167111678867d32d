//! Generated payloads on every topic that the daemon listens to.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::generated::{Connect, LONGEST, Odd, Seeds, assert_clear, withstands_generated};

/// The fields of questions and acknowledgements.
const FIELDS: &[&str] = &[
    "question_id",
    "question",
    "last",
    "from",
    "to",
    "event",
    "run",
    "detail",
    "conversation",
    "max_new_tokens",
    "score_yes_no",
    "schema",
    "alert_id",
    "camera",
    "rule",
    "false_alarm",
    "no_field",
    "",
];

fn value(odd: &mut Odd, depth: usize) -> Value {
    match odd.0.random_range(0..9) {
        0 => Value::Null,
        1 => json!(odd.0.random::<bool>()),
        2 => json!(odd.number()),
        3 => json!(odd.number() as i64),
        4 => json!(f64::from_bits(odd.0.random())),
        5 if depth < 4 => (0..odd.0.random_range(0..4)).map(|_| value(odd, depth + 1)).collect(),
        6 if depth < 4 => object(odd, depth + 1),
        _ => json!(odd.text()),
    }
}

fn object(odd: &mut Odd, depth: usize) -> Value {
    let mut fields = Map::new();
    for _ in 0..odd.0.random_range(0..5) {
        let value = value(odd, depth);
        fields.insert(odd.one(FIELDS).to_owned(), value);
    }
    Value::Object(fields)
}

fn payload(odd: &mut Odd) -> Vec<u8> {
    let mut bytes = match odd.0.random_range(0..5) {
        0 => odd.text().into_bytes(),
        1 => value(odd, 0).to_string().into_bytes(),
        _ => {
            let mut fields = object(odd, 0);
            if odd.chance(2) {
                fields["question"] = json!("Is there a car?");
            }
            fields.to_string().into_bytes()
        }
    };
    odd.damage(&mut bytes);
    // The daemon does not get a packet of more than 1 MiB.
    bytes.truncate((1 << 20) - 1000);
    bytes
}

/// A client that receives the replies to questions and the refused acknowledgements.
struct Client {
    client: AsyncClient,
    /// Each with its topic.
    replies: mpsc::Receiver<(String, Value)>,
}

impl Client {
    async fn connect(port: u16) -> Client {
        let id = format!("generated-{}", rand::random::<u32>());
        let mut options = MqttOptions::new(id, "127.0.0.1", port);
        options.set_max_packet_size(1 << 24, 1 << 24);
        let (client, mut turns) = AsyncClient::new(options, 100);
        let (to, replies) = mpsc::channel(1000);
        let (ready, mut is_ready) = mpsc::channel(2);
        for topic in ["lookout/+/answer", "lookout/acknowledge_refused"] {
            client.subscribe(topic, QoS::AtLeastOnce).await.expect("a subscription");
        }
        tokio::spawn(async move {
            while let Ok(turn) = turns.poll().await {
                match turn {
                    Event::Incoming(Packet::SubAck(_)) => drop(ready.send(()).await),
                    Event::Incoming(Packet::Publish(message)) => {
                        let reply = serde_json::from_slice(&message.payload).expect("JSON");
                        if to.send((message.topic, reply)).await.is_err() {
                            return;
                        }
                    }
                    _ => {}
                }
            }
        });
        for _ in 0..2 {
            timeout(LONGEST, is_ready.recv()).await.expect("a subscription");
        }
        Client { client, replies }
    }
}

/// Sends each payload to a topic. A question that the broker does not retain has one reply.
async fn send(connect: Connect, seeds: Seeds) {
    let mut client = Client::connect(connect.broker).await;
    for seed in seeds {
        let mut odd = Odd(StdRng::seed_from_u64(seed));
        let payload = payload(&mut odd);
        let name = odd.one(&["gate", "gate", "yard", "nowhere", "é", "a b", ""]).to_owned();
        let topic = match odd.0.random_range(0..12) {
            0 => "homeassistant/status".to_owned(),
            1 => format!("homeassistant/device/lookout_{name}/config"),
            2 => format!("lookout/{name}/rule/{}", odd.one(&["car", "none", ""])),
            3..=5 => "lookout/acknowledge".to_owned(),
            _ => format!("lookout/{name}/ask"),
        };
        let (is_question, retain) = (topic.ends_with("/ask"), odd.chance(20));
        let start = String::from_utf8_lossy(&payload[..payload.len().min(300)]).into_owned();
        let request = format!("seed {seed}: {topic}: {start}");
        let sent = client.client.publish(&topic, QoS::AtLeastOnce, retain, payload).await;
        sent.unwrap_or_else(|e| panic!("{request}: {e}"));
        let answer = format!("lookout/{name}/answer");
        let hear = async {
            while let Some((from, reply)) = client.replies.recv().await {
                if reply["kind"] == "refused" {
                    assert_clear(&request, reply["message"].as_str().unwrap_or_default());
                    assert!(reply["reason"].is_string(), "{reply}: {request}");
                }
                if from == answer {
                    return;
                }
            }
            panic!("the broker ended the connection: {request}");
        };
        if is_question && !retain {
            timeout(LONGEST, hear).await.unwrap_or_else(|_| panic!("no reply: {request}"));
        } else if retain {
            let deleted = client.client.publish(&topic, QoS::AtLeastOnce, true, Vec::new()).await;
            deleted.expect("a deletion");
        }
    }
}

#[test]
fn generated_payloads_do_no_harm() {
    withstands_generated("MQTT", 1, send);
}
