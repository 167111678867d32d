//! A real MQTT broker, a proxy in front of it, a subscriber, and the publisher under test.

use lookout::publish::traces;

use super::*;

pub struct Publisher {
    pub running: JoinHandle<Result<(), PublishError>>,
    pub stop: CancellationToken,
}

impl Publisher {
    pub fn start(daemon: &Daemon, config: Mqtt) -> Publisher {
        Publisher::traced(daemon, config, None)
    }

    /// Starts a publisher whose deliveries are traced.
    pub fn traced(
        daemon: &Daemon,
        config: Mqtt,
        recorder: Option<Arc<traces::Recorder>>,
    ) -> Publisher {
        let stop = CancellationToken::new();
        let publisher = publish::mqtt::Publisher::shared(config, daemon.service.clone(), recorder);
        let running = tokio::spawn(publish::mqtt::run(publisher, stop.clone()));
        Publisher { running, stop }
    }

    /// Starts a publisher and waits until it is connected, so that it sends further events live.
    /// `broker` is the broker's own port.
    pub async fn connected(daemon: &Daemon, config: Mqtt, broker: u16) -> Publisher {
        let mut heard = Subscriber::connect(broker, "lookout/available").await;
        let publisher = Publisher::start(daemon, config);
        heard.until("lookout/available", "online").await;
        publisher
    }

    pub async fn stop(self) {
        self.stop.cancel();
        timeout(SOON, self.running).await.unwrap().unwrap().unwrap();
    }
}

pub fn mqtt_config(port: u16) -> Mqtt {
    Mqtt {
        host: "127.0.0.1".into(),
        port,
        tls: None,
        username: None,
        password: None,
        client_id: "lookout-test".into(),
        topic_prefix: "lookout".into(),
        discovery: Some("homeassistant".into()),
        catch_up: Duration::from_secs(3600),
    }
}

/// A mosquitto process, killed when dropped.
pub struct Broker {
    pub port: u16,
    pub folder: tempfile::TempDir,
    pub child: Child,
}

impl Broker {
    pub fn start() -> Broker {
        Broker::start_on(free_port(), "")
    }

    /// Starts a broker; `more` is added to the configuration of the anonymous listener.
    pub fn start_on(port: u16, more: &str) -> Broker {
        let folder = tempfile::tempdir().unwrap();
        let anonymous = format!("listener {port} 127.0.0.1\nallow_anonymous true\n");
        let settings = format!("user root\nmax_queued_messages 0\n{more}{anonymous}");
        std::fs::write(folder.path().join("mosquitto.conf"), settings).unwrap();
        let child = Broker::spawn(&folder);
        let broker = Broker { port, folder, child };
        broker.wait();
        broker
    }

    pub fn spawn(folder: &tempfile::TempDir) -> Child {
        let path = std::env::var_os("MOSQUITTO").unwrap_or("/usr/sbin/mosquitto".into());
        Command::new(path)
            .arg("-c")
            .arg(folder.path().join("mosquitto.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("these tests need mosquitto")
    }

    pub fn wait(&self) {
        for _ in 0..500 {
            if std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("mosquitto does not listen on {}", self.port);
    }

    pub fn hang(&self) {
        // SAFETY: a signal to a child that is not reaped yet.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, libc::SIGSTOP) }, 0);
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn start_again(&mut self) {
        self.child = Broker::spawn(&self.folder);
        self.wait();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A proxy between publisher and broker. When shut, it breaks open connections and accepts no new
/// ones, so that a subscriber can reconnect before the publisher.
pub struct Gate {
    pub port: u16,
    pub shut: Arc<tokio::sync::watch::Sender<bool>>,
    /// True while what the broker says is lost on its way.
    pub loses_answers: Arc<AtomicBool>,
}

impl Gate {
    pub async fn open_to(broker: u16) -> Gate {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shut = Arc::new(tokio::sync::watch::Sender::new(false));
        let state = shut.clone();
        let loses_answers = Arc::new(AtomicBool::new(false));
        let loses = loses_answers.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (mut state, loses) = (state.subscribe(), loses.clone());
                tokio::spawn(async move {
                    if *state.borrow_and_update() {
                        return;
                    }
                    let Ok(far) = TcpStream::connect(("127.0.0.1", broker)).await else {
                        return;
                    };
                    let (mut from_near, to_near) = near.into_split();
                    let (from_far, mut to_far) = far.into_split();
                    tokio::select! {
                        _ = tokio::io::copy(&mut from_near, &mut to_far) => {}
                        () = answers(from_far, to_near, &loses) => {}
                        // Also if it is open again by now.
                        _ = state.changed() => {}
                    }
                });
            }
        });
        Gate { port, shut, loses_answers }
    }

    /// Opens a proxy that acts like a broker without MQTT 5: it refuses the version as MQTT 3.1.1
    /// specifies.
    pub async fn of_an_old_broker(broker: u16) -> Gate {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut begin = [0; 16];
                    while near.peek(&mut begin).await.is_ok_and(|length| length < begin.len()) {
                        tokio::task::yield_now().await;
                    }
                    let name = begin.windows(4).position(|bytes| bytes == b"MQTT").unwrap();
                    if begin[name + 4] > 4 {
                        near.read_exact(&mut begin).await.unwrap();
                        near.write_all(&[0x20, 2, 0, 1]).await.unwrap();
                        return;
                    }
                    if let Ok(mut far) = TcpStream::connect(("127.0.0.1", broker)).await {
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        });
        let shut = Arc::new(tokio::sync::watch::Sender::new(false));
        Gate { port, shut, loses_answers: Arc::default() }
    }

    pub fn shut(&self, shut: bool) {
        self.shut.send_replace(shut);
    }
}

/// Copies what the broker says, or loses it.
async fn answers(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    loses: &AtomicBool,
) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if !loses.load(Ordering::Relaxed) && to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

#[derive(Debug)]
pub struct Message {
    pub topic: String,
    pub payload: String,
    pub retain: bool,
}

/// A subscriber to a topic filter that reconnects when the broker comes back.
pub struct Subscriber {
    pub client: AsyncClient,
    pub messages: mpsc::Receiver<Message>,
    pub subscribed: tokio::sync::watch::Receiver<u32>,
}

impl Subscriber {
    pub async fn connect(port: u16, filter: &str) -> Subscriber {
        let id = format!("test-{}", rand::random::<u32>());
        let mut options = MqttOptions::new(id, "127.0.0.1", port);
        options.set_max_packet_size(1 << 24, 1 << 24);
        let (client, mut eventloop) = AsyncClient::new(options, 100);
        let (to, messages) = mpsc::channel(10_000);
        let (count, subscribed) = tokio::sync::watch::channel(0);
        let (filter, subscriber) = (filter.to_owned(), client.clone());
        tokio::spawn(async move {
            loop {
                match eventloop.poll().await {
                    Ok(rumqttc::Event::Incoming(Packet::ConnAck(_))) => {
                        subscriber.try_subscribe(&filter, QoS::AtLeastOnce).unwrap();
                    }
                    Ok(rumqttc::Event::Incoming(Packet::SubAck(_))) => {
                        count.send_modify(|count| *count += 1);
                    }
                    Ok(rumqttc::Event::Incoming(Packet::Publish(publish))) => {
                        let payload = String::from_utf8(publish.payload.to_vec()).unwrap();
                        let (topic, retain) = (publish.topic, publish.retain);
                        if to.try_send(Message { topic, payload, retain }).is_err() {
                            return;
                        }
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        });
        let mut subscriber = Subscriber { client, messages, subscribed };
        subscriber.back().await;
        subscriber
    }

    /// Waits for the next subscription since the last call.
    pub async fn back(&mut self) {
        timeout(SOON, self.subscribed.changed()).await.expect("no subscription").unwrap();
    }

    pub async fn say(&self, topic: &str, payload: &str) {
        self.client.publish(topic, QoS::AtLeastOnce, false, payload).await.unwrap();
    }

    pub async fn next(&mut self) -> Message {
        timeout(SOON, self.messages.recv()).await.expect("no message").unwrap()
    }

    pub async fn next_on(&mut self, topic: &str) -> Message {
        loop {
            let message = self.next().await;
            if message.topic == topic {
                return message;
            }
        }
    }

    pub async fn json_on(&mut self, topic: &str) -> Value {
        serde_json::from_str(&self.next_on(topic).await.payload).unwrap()
    }

    pub async fn until(&mut self, topic: &str, payload: &str) {
        while self.next_on(topic).await.payload != payload {}
    }

    /// Collects the sequence numbers of events until this one has arrived.
    pub async fn sequences_to(&mut self, last: u64, sequences: &mut Vec<u64>) {
        while sequences.last() != Some(&last) {
            let event: Value = serde_json::from_str(&self.next().await.payload).unwrap();
            sequences.push(event["sequence"].as_u64().unwrap());
        }
    }
}
