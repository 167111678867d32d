//! Tests the example config line by line, and every config that is refused at startup.

#[path = "config/generated.rs"]
mod generated;
#[path = "config/reference.rs"]
mod reference;
#[path = "config/reload_column.rs"]
mod reload_column;
mod support;

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use lookout::config::Config;
use support::*;

fn example() -> String {
    fs::read_to_string(repository().join("configs/example.toml")).expect("example.toml")
}

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("/etc/lookout")).map_err(|e| e.to_string())
}

/// Returns the key of a `key = value` line, commented out or not.
fn key(line: &str) -> Option<&str> {
    let (key, _) = line.trim_start_matches('#').split_once(" = ")?;
    key.chars().all(|c| c.is_ascii_lowercase() || c == '_').then_some(key)
}

/// The keys of a back end that the example does not choose, and those that it cannot have.
const OF_OPENAI: [&str; 2] = ["max_images", "scores"];

/// Returns the example with every commented key enabled, and the URL schemes that these keys
/// require.
fn everything_on() -> Vec<String> {
    let text = example().replace("\"rtsp://", "\"rtsps://").replace("\"mqtt://", "\"mqtts://");
    text.lines()
        .map(|line| match key(line) {
            Some(key) if !OF_OPENAI.contains(&key) => line.trim_start_matches('#').to_string(),
            _ => line.to_string(),
        })
        .collect()
}

/// Returns everything with the other back end and its keys. The keys of a package are left out.
fn everything_on_with_openai() -> Vec<String> {
    let mut table = String::new();
    let lines = everything_on().into_iter().map(|line| {
        if line.starts_with('[') {
            table = line.clone();
        }
        let is_of_package = table == "[model]" && key(&line) != Some("system_prompt");
        match key(&line) {
            Some(_) if is_of_package => format!("# {line}"),
            Some("backend") => line.replace("vllm", "openai"),
            Some(key) if OF_OPENAI.contains(&key) => line.trim_start_matches('#').to_string(),
            _ => line,
        }
    });
    lines.collect()
}

#[test]
fn the_example_holds_every_default() {
    let shown = parse(&example()).expect("the example");
    let least = parse(
        r#"
        [model]
        package = "../models/demo/package"
        plan = "16:slowfast-slow_4frms_spatial_1d_max_pool-fast_2x4"
        [mqtt]
        broker = "mqtt://127.0.0.1:1883"
        [[camera]]
        name = "gate"
        url = "rtsp://192.168.1.20:554/stream1"
        [[rule]]
        name = "person"
        question = "Is there a person?"
        [[webhook]]
        name = "automation"
        url = "https://automation.example/lookout"
        [[ntfy]]
        name = "phone"
        url = "https://ntfy.example"
        topic = "lookout"
        "#,
    )
    .expect("the least config");
    assert_eq!(format!("{shown:#?}"), format!("{least:#?}"));
    let paper = example().replace("16:slowfast-slow_4frms_spatial_1d_max_pool-fast_2x4", "paper");
    assert_eq!(parse(&paper).expect("paper").model.plan.frames, 50);
}

#[test]
fn every_line_of_the_example_is_read() {
    let keys = misread(&everything_on(), |key| !OF_OPENAI.contains(&key));
    assert!(keys > 45, "only {keys} keys found");
    assert_eq!(misread(&everything_on_with_openai(), |key| OF_OPENAI.contains(&key)), 2);
}

/// Checks that each key of these lines is read. Returns the number of keys.
fn misread(lines: &[String], is_checked: impl Fn(&str) -> bool) -> usize {
    parse(&lines.join("\n")).expect("the example with every key");
    let mut keys = 0;
    for (at, line) in lines.iter().enumerate() {
        let Some(key) = key(line).filter(|key| is_checked(key)) else { continue };
        keys += 1;
        // A key that is never read would also be accepted with a misspelt name.
        let mut misspelt = lines.to_vec();
        misspelt[at] = line.replacen(key, &format!("{key}x"), 1);
        let error = parse(&misspelt.join("\n")).expect_err(line);
        assert!(error.contains(&format!("line {}", at + 1)), "{line}: {error}");
        assert!(error.contains(&format!("nearest known key is `{key}`")), "{line}: {error}");
        // A value of the wrong type is not accepted either.
        let mut senseless = lines.to_vec();
        senseless[at] = format!("{key} = [[]]");
        assert!(parse(&senseless.join("\n")).is_err(), "{line}");
    }
    keys
}

#[test]
fn wrong_values_are_refused_by_their_key() {
    let wrong = [
        ("window = \"50s\"", "window = \"50 parsecs\"", "parsecs"),
        ("window = \"50s\"", "window = \"20ms\"", "window = \"20ms\": wanted at least \"1s\""),
        ("window = \"50s\"", "window = \"9000000 years\"", "wanted at most \"3650 days\""),
        ("jpeg_age = \"1h\"", "jpeg_age = \"11y\"", "buffer.jpeg_age"),
        ("stop_timeout = \"10s\"", "stop_timeout = \"11y\"", "wanted at most"),
        ("fps = 1.0", "fps = 0", "fps = 0"),
        ("token_age = \"10m\"", "token_age = \"30s\"", "buffer.token_age"),
        ("token_bytes = \"1 GiB\"", "token_bytes = \"1 KiB\"", "buffer.token_bytes"),
        ("hang_timeout = \"2m\"", "hang_timeout = \"1s\"", "wanted at least \"2s\""),
        ("drop_in_folder = \"lookout.d\"", "drop_in_folder = 1", "drop_in_folder"),
        ("paused = false", "paused = 1", "paused"),
        ("inbox_bytes = \"512 MiB\"", "inbox_bytes = \"1 MiB\"", "buffer.inbox_bytes"),
        ("retention = \"30d\"", "retention = \"1s\"", "journal.retention"),
        ("bytes = \"10 GiB\"\n# Frames", "bytes = \"2 KiB\"\n# Frames", "journal.bytes"),
        ("jpegs = \"slow\"", "jpegs = \"fast\"", "jpegs"),
        ("vector_bytes = \"512 MiB\"", "vector_bytes = \"2 KiB\"", "search.vector_bytes"),
        ("#model = \"/usr/share", "model = \"/usr/share", "search.model needs journal.folder"),
        ("top_p = 1.0", "top_p = 2.0", "generate.top_p = 2"),
        ("question_bytes = \"8 KiB\"", "question_bytes = \"0 B\"", "wanted \"1 B\" to \"64 KiB\""),
        ("plan = \"16:", "plan = \"0:", "model.plan"),
        ("name = \"gate\"", "name = \"my gate\"", "camera.name"),
        ("name = \"gate\"", "name = \"available\"", "topic is taken"),
        ("url = \"rtsp:", "url = \"http:", "wanted rtsp, rtsps or file"),
        (
            "#masks = [{ polygon = [[0.0, 0.0], ",
            "masks = [{ polygon = [[0.0, 1.5], ",
            "mask 1: a corner is [0, 1.5]",
        ),
        (
            "#masks = [{ polygon = [[0.0, 0.0], ",
            "masks = [{ image = \"/no.png\" }] #",
            "mask 1: image /no.png: No such file",
        ),
        (
            "#masks = [{ polygon = [[0.0, 0.0], ",
            "masks = [{ schedule = \"Mon\" }] #",
            "mask 1: wanted either polygon or image",
        ),
        (
            "#masks = [{ polygon = [[0.0, 0.0], ",
            "masks = [{ schedule = \"Mo\" }] #",
            "mask 1: schedule = \"Mo\": wanted periods",
        ),
        ("url = \"rtsp://", "url = \"rtsp://admin:12/34@", "write / as %2F"),
        ("broker = \"mqtt:", "broker = \"amqp:", "mqtt.broker"),
        ("#backend = \"vllm\"", "backend = \"vllm\"", "language.model is missing"),
        ("#backend = \"vllm\"", "backend = \"sglang\"", "`sglang`"),
        ("#endpoints", "endpoints", "language.endpoints needs language.backend = \"vllm\" or"),
        ("#max_images", "max_images", "language.max_images needs language.backend = \"openai\""),
        ("#scores = \"logprobs\"", "scores = \"words\"", "unknown variant `words`"),
        (
            "#backend = \"vllm\"",
            "backend = \"openai\"\nmodel = \"m\"\nendpoints = [\"http://a\"]",
            "model.package, model.plan, model.resize, model.device, model.prefill_chunk: without",
        ),
        ("stall_timeout = \"20s\"", "stall_timeout = \"0s\"", "language.stall_timeout = \"0s\""),
        ("#ca_file = \"broker", "ca_file = \"broker", "mqtt.ca_file needs mqtts://"),
        ("#client_cert_file", "client_cert_file", "needs mqtt.client_key_file"),
        ("#client_key_file", "client_key_file", "needs mqtt.client_cert_file"),
        ("sample_ratio = 1.0", "sample_ratio = 1.5", "traces.sample_ratio = 1.5"),
        ("service_name = \"lookout\"", "service_name = \" \"", "traces.service_name"),
        ("#endpoint = \"https:", "endpoint = \"udp:", "traces.endpoint is not valid"),
        ("#endpoint = \"https://", "endpoint = \"http://me:secret@", "it has a user"),
        ("transport = \"auto\"", "transport = \"smoke\"", "smoke"),
        ("#cert_file", "cert_file", "tls.cert_file needs tls.key_file"),
        ("#key_file", "key_file", "tls.key_file needs tls.cert_file"),
        ("#client_ca_file", "client_ca_file", "tls.client_ca_file needs tls.cert_file"),
        ("#tls = true", "tls = true", "grpc.tls needs tls.cert_file"),
        (
            "listen = \"127.0.0.1:50051\"",
            "listen = \"0.0.0.0:50051\"",
            "grpc.listen = \"0.0.0.0:50051\": wanted TLS ([tls]) and access control",
        ),
        ("listen = \"127.0.0.1:9090\"", "listen = \"[::]:9090\"", "http.insecure = true"),
        ("listen = \"127.0.0.1:9090\"", "listen = \"9090\"", "socket address"),
        (
            "#template = \"USER: <image>\\n{prompt} ",
            "template = \"USER: <image> ",
            "model.template: {prompt} occurs 0 times",
        ),
        ("tls_verify = true", "tls_verify = false", "tls_verify needs rtsps://"),
        ("name = \"person\"", "name = \"a person\"", "rule.name = \"a person\""),
        ("question = \"Is there", "question = \" \" #", "rule \"person\": question = \" \""),
        ("cameras = []", "cameras = [\"attic\"]", "names of [[camera]] tables: gate"),
        ("on = 0.8", "on = 1.5", "on = 1.5: wanted 0.01 to 1"),
        ("off = 0.4", "off = 0.9", "off = 0.9: wanted at most on, 0.8"),
        ("temperature = 1.0", "temperature = 0.0", "temperature = 0: wanted 0.1 to 10"),
        ("temperature = 1.0", "temperature = nan", "temperature = NaN: wanted 0.1 to 10"),
        ("of = \"2/3\"", "of = \"4/3\"", "of = \"4/3\": wanted \"N/M\""),
        ("of = \"2/3\"", "of = \"2\"", "of = \"2\": wanted \"N/M\""),
        ("cooldown = \"1m\"", "cooldown = \"11y\"", "rule \"person\": cooldown"),
        ("hold = \"1m\"", "hold = \"11y\"", "rule \"person\": hold"),
        ("severity = \"warning\"", "severity = \"fatal\"", "`fatal`"),
        (
            "#schedule = \"Mon-Fri",
            "schedule = \"Mon-Day",
            "\"Mon-Day 22:00-06:00\" is not a period",
        ),
        ("#deliver = [\"phone", "deliver = [\"fax", "tables: automation, phone"),
        ("#describe_schema = ", "describe_schema = ", "describe_schema needs describe"),
        (
            "#describe = \"Describe the person.",
            "describe = \" ",
            "describe = \" \": wanted a prompt",
        ),
        ("name = \"automation\"", "name = \"a b\"", "webhook.name = \"a b\""),
        ("name = \"automation\"", "name = \"phone\"", "tables are named \"phone\""),
        (
            "url = \"https://automation.example",
            "url = \"ftp://automation.example",
            "http nor https",
        ),
        ("\"https://automation", "\"https://me:pw@automation", "it has a user"),
        ("headers = {}", "headers = { Host = \"x\" }", "headers = \"Host\": wanted"),
        ("headers = {}", "headers = { \"a b\" = \"x\" }", "headers = \"a b\": wanted"),
        ("headers = {}", "headers = { A = \"ü\" }", "headers.A has a value"),
        ("phases = [\"new\", \"up", "phases = [\"old\", \"up", "`old`"),
        (
            "phases = [\"new\", \"desc",
            "phases = [] #",
            "ntfy \"phone\": phases = []: wanted one or more",
        ),
        ("timeout = \"10s\"\n# Maximum pause", "timeout = \"1ms\"\n# Maximum pause", "timeout = "),
        ("topic = \"lookout\"", "topic = \"a/b\"", "ntfy \"phone\": topic = \"a/b\""),
        ("#click = \"https", "click = \":", "ntfy \"phone\": click = "),
        ("#time_zone = \"Europe/Berlin", "time_zone = \"Europe/Atlantis", "Europe/Atlantis"),
    ];
    for (from, to, named) in wrong {
        let text = example();
        assert!(text.contains(from), "{from} is not in the example");
        let error = parse(&text.replacen(from, to, 1)).expect_err(to);
        assert!(error.contains(named), "{to}: {error}");
        assert!(!error.contains('\n'), "{to}: {error}");
    }
}

#[test]
fn no_refusal_shows_a_password_from_a_url() {
    let (url, broker) = ("url = \"rtsp://", "broker = \"mqtt://");
    for (from, to) in [
        (url, "url = \"rtsp://admin:Planted/1@"),
        (url, "url = \"admin:Planted@"),
        (url, "captions = \"rtsp://admin:Planted@cam/live\"\nurl = \"rtsp://"),
        (url, "url = \"http://admin:Planted@"),
        (broker, "broker = \"mqtt://me:Planted@"),
        (broker, "broker = \"mqtt://me:Planted/1@"),
        ("topic_prefix = \"lookout\"", "topic_prefix = \"mqtt://me:Planted@h\""),
    ] {
        let text = example();
        assert!(text.contains(from), "{from} is not in the example");
        let error = parse(&text.replacen(from, to, 1)).expect_err(to);
        assert!(!error.contains("Planted"), "{to}: {error}");
    }
}

#[test]
fn a_password_in_the_url_is_used_and_never_shown() {
    let text = example().replace("rtsp://192", "rtsp://me:s3cret%21@192");
    let config = parse(&text).expect("config");
    assert!(!format!("{config:?}").contains("s3cret"));
    assert!(!config.cameras[0].source.to_string().contains("me"));
}

/// Starts the daemon, which must end with code 2 and one sentence that contains every one of
/// `named`.
fn refused(folder: &Path, config: &str, named: &[&str]) {
    let file = folder.join("lookout.toml");
    fs::write(&file, config).expect("config");
    let output = Command::new(LOOKOUT)
        .args(["run", "--log", "error", "--config"])
        .arg(&file)
        .output()
        .expect("lookout");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    for part in named {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
}

#[test]
fn an_impossible_start_is_refused_in_one_sentence() {
    let folder = folder();
    let dir = folder.path();
    let whole = head(free_port(), free_port(), None) + &camera("gate", "rtsp://127.0.0.1:9/x", "");

    refused(dir, &whole.replace("window", "windou"), &["`windou`", "`window`", "line"]);
    refused(dir, &whole.replace("\"4s\"", "\"4 blinks\""), &["blinks", "lookout.toml"]);
    let twice = whole.clone() + &camera("gate", "rtsp://127.0.0.1:9/y", "");
    refused(dir, &twice, &["two cameras are named \"gate\""]);

    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = taken.local_addr().expect("addr").to_string();
    let occupied =
        head(addr.rsplit_once(':').map_or(0, |(_, p)| p.parse().unwrap_or(0)), free_port(), None);
    refused(dir, &(occupied + &camera("gate", "rtsp://127.0.0.1:9/x", "")), &[&addr, "in use"]);

    let open = whole.replace("[http]\nlisten = \"127.0.0.1", "[http]\nlisten = \"0.0.0.0");
    refused(dir, &open, &["http.listen = \"0.0.0.0:", "wanted TLS", "http.insecure = true"]);
    let files = "[tls]\ncert_file = \"none.pem\"\nkey_file = \"none.key\"\n[grpc]";
    let missing = whole.replace("[grpc]", files);
    refused(dir, &missing, &["tls.cert_file", "none.pem: cannot be read: No such file"]);

    let package = repository().join("models/demo/package");
    let other = |name: &str| whole.replace(package.to_str().expect("path"), name);
    refused(dir, &other("/no/such/package"), &["/no/such/package"]);

    // Uses a complete package, then one without a file, then one with a graph that lacks an input.
    let copy = dir.join("package");
    copy_folder(&package, &copy).expect("copy");
    let here = other(copy.to_str().expect("path"));
    let decoder = copy.join("onnx/decoder_model_merged.onnx");
    let whole_decoder = fs::read(&decoder).expect("decoder");
    fs::remove_file(&decoder).expect("remove");
    refused(dir, &here, &["decoder_model_merged.onnx", "missing"]);
    fs::write(&decoder, replaced(&whole_decoder, b"inputs_embeds", b"inputs_embedz"))
        .expect("write");
    refused(
        dir,
        &here,
        &["decoder_model_merged.onnx", "no input \"inputs_embeds\"", "inputs_embedz"],
    );
    fs::write(&decoder, &whole_decoder[..whole_decoder.len() / 2]).expect("write");
    refused(dir, &here, &["decoder_model_merged.onnx"]);
    fs::write(&decoder, &whole_decoder).expect("write");

    let paper = here.replace("8:slowfast-slow_4frms_spatial_1d_max_pool-fast_2x4", "paper");
    refused(dir, &paper, &["model.plan", "context of 1024 tokens"]);
    refused(
        dir,
        &here.replace("[model]", "[model]\nonnxruntime = \"/no/lib.so\""),
        &["/no/lib.so"],
    );
    let tricked =
        here.replace("caption_interval = ", "caption_prompt = \"</s> Hi\"\ncaption_interval = ");
    refused(dir, &tricked, &["camera \"gate\": caption_prompt", "</s>"]);
    let tricked = here.replace("[model]", "[model]\nsystem_prompt = \"</s> Hi\"");
    refused(dir, &tricked, &["model.system_prompt", "</s>"]);
    let tricked = here.replace("[generate]", "[generate]\nanswer_prefix = \"<image>\"");
    refused(dir, &tricked, &["generate.answer_prefix", "<image>"]);
    let chat = copy.join("chat_template.jinja");
    fs::write(&chat, "{% for message in messages %}\n{{ message.content }").expect("write");
    refused(dir, &here, &["chat_template.jinja", "line 2", "syntax error"]);
    fs::write(&chat, "USER: {{ messages[0].content[1].text }}").expect("write");
    refused(dir, &here, &["chat_template.jinja", "\"<image>\"", "0 times", "model.template"]);
    fs::remove_file(&chat).expect("remove");
    let config = copy.join("config.json");
    let text = fs::read_to_string(&config).expect("config.json");
    fs::write(&config, text.replace("\"llava\"", "\"gpt\"")).expect("write");
    refused(dir, &here, &["config.json", "model_type = \"gpt\""]);
    fs::write(&config, text.replace("\"hidden_size\": 160", "\"hidden_size\": 192"))
        .expect("write");
    refused(dir, &here, &["192"]);
}

#[test]
fn an_insecure_interface_is_reported() {
    let folder = folder();
    let open = head(free_port(), free_port(), None)
        .replace("[http]\nlisten = \"127.0.0.1", "[http]\ninsecure = true\nlisten = \"0.0.0.0")
        .replace("models/demo/package", "models/demo/none");
    let file = folder.path().join("lookout.toml");
    fs::write(&file, open + &camera("gate", "file:none.mp4", "")).expect("config");
    let run = |command: &str| {
        let output = Command::new(LOOKOUT).args([command, "--config"]).arg(&file).output();
        let output = output.expect("lookout");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let checked = run("check");
    let reported = "is free, INSECURE: without TLS ([tls]) and access control (access.enabled = true) (http.insecure = true)";
    assert!(checked.contains(reported), "{checked}");
    assert_eq!(checked.matches("INSECURE").count(), 1, "{checked}");
    // The warning comes before the model is loaded, which fails here.
    let logged = run("run");
    let warned = logged.contains("HTTP: other machines can reach 0.0.0.0:");
    assert!(warned && logged.contains("without TLS ([tls]) and access control (access.enabled = true) (http.insecure = true)"), "{logged}");
    assert!(!logged.contains("gRPC: other machines"), "{logged}");
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = bytes.to_vec();
    for at in 0..bytes.len() - from.len() {
        if bytes[at..].starts_with(from) {
            bytes[at..at + to.len()].copy_from_slice(to);
        }
    }
    bytes
}
