//! Compares the running config with another one, and says what has to be done. Pure: it reads no
//! files and changes nothing.
//!
//! Every field of every table is named below. A field that is added to a table of the config does
//! not compile here until it is decided whether it can change while the daemon runs.

use std::sync::Arc;

use crate::config::{
    AccessControl, Buffer, Camera, Config, ConfigError, Disk, Generate, Journal, Language, Listen,
    Model, Mqtt, OpenAi, Search, Servers, Tls, Traces, Wording,
};

/// The steps from the running config to another one.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The config that runs afterwards: the new one, with the old values of `needs_restart`.
    pub config: Config,
    pub removed: Vec<Arc<str>>,
    pub added: Vec<Camera>,
    pub changed: Vec<CameraChange>,
    /// The keys outside of cameras that change, except those that need a restart.
    pub settings: Vec<String>,
    /// The keys whose new values need a restart.
    pub needs_restart: Vec<String>,
}

/// Other settings of a camera.
#[derive(Clone, Debug, PartialEq)]
pub struct CameraChange {
    pub camera: Camera,
    /// The keys that differ.
    pub keys: Vec<&'static str>,
    /// True if its thread must be restarted for them.
    pub reconnects: bool,
}

/// Lists the keys of a table whose values differ. It does not compile if a field is missing.
macro_rules! different {
    ($old:expr, $new:expr, $table:ident { $($field:ident: $key:literal),* $(,)? }) => {{
        let (old, new): (&$table, &$table) = ($old, $new);
        let $table { $($field: _),* } = new;
        let keys = [$((old.$field != new.$field).then_some($key)),*];
        keys.into_iter().flatten().collect::<Vec<&'static str>>()
    }};
}

/// Returns the steps from `old` to `new`. An error means that the cameras and rules of `new` do not
/// fit a value that needs a restart.
pub fn plan(old: &Config, new: &Config) -> Result<Plan, ConfigError> {
    let (config, needs_restart) = effective(old, new);
    config.check_together().map_err(|error| {
        error.with_hint("this value needs a restart of the daemon, which would use the new config")
    })?;
    let find = |config: &Config, name: &str| {
        config.cameras.iter().find(|camera| *camera.name == *name).cloned()
    };
    let removed = old.cameras.iter().filter(|camera| find(new, &camera.name).is_none());
    let added = new.cameras.iter().filter(|camera| find(old, &camera.name).is_none());
    let changed = new.cameras.iter().filter_map(|camera| {
        let before = find(old, &camera.name)?;
        camera_change(&before, camera)
    });
    Ok(Plan {
        removed: removed.map(|camera| camera.name.clone()).collect(),
        added: added.cloned().collect(),
        changed: changed.collect(),
        settings: settings(old, &config),
        needs_restart,
        config,
    })
}

/// Returns the change of a camera, or `None` if it stays as it is.
fn camera_change(old: &Camera, new: &Camera) -> Option<CameraChange> {
    let keys = different!(
        old,
        new,
        Camera {
            name: "name",
            source: "url",
            fps: "fps",
            window: "window",
            caption_interval: "caption_interval",
            max_caption_delay: "max_caption_delay",
            unchanged_threshold: "unchanged_threshold",
            caption_prompt: "caption_prompt",
            decode_frames: "decode_frames",
            masks: "masks",
            stall_timeout: "stall_timeout",
            max_reconnect_delay: "max_reconnect_delay",
            is_paused: "paused",
        }
    );
    /// The keys that the camera's thread uses.
    const RECONNECT: [&str; 7] =
        ["url", "fps", "decode_frames", "masks", "stall_timeout", "max_reconnect_delay", "paused"];
    let reconnects = keys.iter().any(|key| RECONNECT.contains(key));
    (!keys.is_empty()).then(|| CameraChange { camera: new.clone(), keys, reconnects })
}

/// Returns the config that can run without a restart, and the keys whose new values it lacks.
fn effective(old: &Config, new: &Config) -> (Config, Vec<String>) {
    let Config {
        model,
        language,
        wording,
        generate,
        buffer,
        journal,
        search,
        tls,
        grpc,
        http,
        access,
        traces,
        mqtt,
        cameras,
        rules,
        targets,
        stop_timeout,
        hang_timeout,
        drop_in_folder,
    } = new;
    let mut keys: Vec<&str> = different!(
        &old.model,
        model,
        Model {
            package: "model.package",
            precision: "model.precision",
            onnxruntime: "model.onnxruntime",
            plan: "model.plan",
            resize: "model.resize",
            vision_device: "model.vision_device",
            language_device: "model.language_device",
            gpu_memory: "model.gpu_memory",
            vision_threads: "model.vision_threads",
            language_threads: "model.language_threads",
            prefill_chunk: "model.prefill_chunk",
        }
    );
    keys.extend(language_keys(&old.language, language));
    keys.extend(different!(
        &old.wording,
        wording,
        Wording {
            template: "model.template",
            system_prompt: "model.system_prompt",
            answer_prefix: "generate.answer_prefix",
        }
    ));
    let same_generate = Generate {
        max_new_tokens: old.generate.max_new_tokens,
        max_concurrent_sequences: old.generate.max_concurrent_sequences,
        prefix_cache_bytes: old.generate.prefix_cache_bytes,
        ..generate.clone()
    };
    keys.extend(generate_keys(&same_generate, generate));
    let same_buffer = Buffer {
        token_age: buffer.token_age,
        token_bytes: buffer.token_bytes,
        jpeg_age: buffer.jpeg_age,
        jpeg_bytes: buffer.jpeg_bytes,
        ..old.buffer.clone()
    };
    keys.extend(buffer_keys(&same_buffer, buffer));
    if let (Some(old), Some(new)) = (&old.buffer.disk, &buffer.disk) {
        keys.extend(different!(
            old,
            new,
            Disk {
                folder: "buffer.disk.folder",
                retention: "buffer.disk.retention",
                bytes: "buffer.disk.bytes",
            }
        ));
    }
    keys.extend(of_table("journal.folder", &old.journal, journal, |old, new| {
        different!(
            old,
            new,
            Journal {
                folder: "journal.folder",
                retention: "journal.retention",
                bytes: "journal.bytes",
                jpegs: "journal.jpegs",
            }
        )
    }));
    keys.extend(of_table("search.model", &old.search, search, |old, new| {
        different!(old, new, Search { model: "search.model", vector_bytes: "search.vector_bytes" })
    }));
    // Connections that begin later use another certificate, but TLS itself begins with a start.
    let keeps_tls = old.tls.is_some() == tls.is_some();
    keys.extend((!keeps_tls).then_some("tls.cert_file"));
    keys.extend(of_table("grpc.enabled", &old.grpc, grpc, |old, new| {
        different!(
            old,
            new,
            Listen {
                addr: "grpc.listen",
                connections: "grpc.connections",
                tls: "grpc.tls",
                lacks: "grpc.insecure",
            }
        )
    }));
    keys.extend(of_table("http.enabled", &old.http, http, |old, new| {
        different!(
            old,
            new,
            Listen {
                addr: "http.listen",
                connections: "http.connections",
                tls: "http.tls",
                lacks: "http.insecure",
            }
        )
    }));
    keys.extend(of_table("access.enabled", &old.access, access, |old, new| {
        different!(
            old,
            new,
            AccessControl { folder: "access.folder", limits: "access.questions_per_minute" }
        )
    }));
    keys.extend(of_table("traces.endpoint", &old.traces, traces, |old, new| {
        different!(
            old,
            new,
            Traces {
                endpoint: "traces.endpoint",
                headers: "traces.headers_file",
                ca_file: "traces.ca_file",
                sample_ratio: "traces.sample_ratio",
                service_name: "traces.service_name",
                has_content: "traces.content",
            }
        )
    }));
    keys.extend(of_table("mqtt", &old.mqtt, mqtt, |old, new| {
        different!(
            old,
            new,
            Mqtt {
                host: "mqtt.broker",
                port: "mqtt.broker",
                tls: "mqtt.broker",
                username: "mqtt.username",
                password: "mqtt.password_file",
                client_id: "mqtt.client_id",
                topic_prefix: "mqtt.topic_prefix",
                discovery: "mqtt.home_assistant",
                catch_up: "mqtt.catch_up",
            }
        )
    }));
    keys.extend((old.hang_timeout != *hang_timeout).then_some("hang_timeout"));
    keys.dedup();
    let config = Config {
        generate: same_generate,
        buffer: same_buffer,
        cameras: cameras.clone(),
        rules: rules.clone(),
        targets: targets.clone(),
        stop_timeout: *stop_timeout,
        tls: if keeps_tls { tls.clone() } else { old.tls.clone() },
        drop_in_folder: drop_in_folder.clone(),
        ..old.clone()
    };
    (config, keys.into_iter().map(String::from).collect())
}

/// Lists the keys of a table that may be missing. `missing` is the key that makes it exist.
fn of_table<T>(
    missing: &'static str,
    old: &Option<T>,
    new: &Option<T>,
    compare: impl FnOnce(&T, &T) -> Vec<&'static str>,
) -> Vec<&'static str> {
    match (old, new) {
        (Some(old), Some(new)) => compare(old, new),
        (None, None) => Vec::new(),
        _ => vec![missing],
    }
}

fn language_keys(old: &Language, new: &Language) -> Vec<&'static str> {
    match (old, new) {
        (Language::Onnxruntime, Language::Onnxruntime) => Vec::new(),
        (Language::Vllm(old), Language::Vllm(new)) => server_keys(old, new),
        (Language::OpenAi(old), Language::OpenAi(new)) => {
            let keys = different!(
                old,
                new,
                OpenAi {
                    servers: "language.endpoints",
                    max_images: "language.max_images",
                    scores: "language.scores",
                }
            );
            // The keys of the servers are compared one by one.
            let others = keys.into_iter().filter(|key| *key != "language.endpoints");
            others.chain(server_keys(&old.servers, &new.servers)).collect()
        }
        _ => vec!["language.backend"],
    }
}

fn server_keys(old: &Servers, new: &Servers) -> Vec<&'static str> {
    different!(
        old,
        new,
        Servers {
            endpoints: "language.endpoints",
            model: "language.model",
            api_key: "language.api_key_file",
            ca_file: "language.ca_file",
            timeout: "language.timeout",
            stall_timeout: "language.stall_timeout",
        }
    )
}

fn generate_keys(old: &Generate, new: &Generate) -> Vec<&'static str> {
    different!(
        old,
        new,
        Generate {
            max_new_tokens: "generate.max_new_tokens",
            sampling: "generate.temperature",
            summary: "generate.summary",
            max_waiting_questions: "generate.max_waiting_questions",
            question_bytes: "generate.question_bytes",
            max_concurrent_sequences: "generate.max_concurrent_sequences",
            prefix_cache_bytes: "generate.prefix_cache_bytes",
        }
    )
}

fn buffer_keys(old: &Buffer, new: &Buffer) -> Vec<&'static str> {
    let keys = different!(
        old,
        new,
        Buffer {
            token_age: "buffer.token_age",
            token_bytes: "buffer.token_bytes",
            jpeg_age: "buffer.jpeg_age",
            jpeg_bytes: "buffer.jpeg_bytes",
            reencode_cache_bytes: "buffer.reencode_cache_bytes",
            inbox_bytes: "buffer.inbox_bytes",
            encoded_age: "buffer.encoded_age",
            encoded_bytes: "buffer.encoded_bytes",
            disk: "buffer.disk.folder",
            jpeg_width: "buffer.jpeg_width",
            jpeg_quality: "buffer.jpeg_quality",
        }
    );
    // The keys of a disk tier that stays are compared one by one.
    let stays = old.disk.is_some() && new.disk.is_some();
    keys.into_iter().filter(|key| !(stays && *key == "buffer.disk.folder")).collect()
}

/// Lists the tables and keys outside of cameras that change.
fn settings(old: &Config, new: &Config) -> Vec<String> {
    let mut settings: Vec<String> = Vec::new();
    let rules = |config: &Config| config.rules.iter().map(|rule| rule.name.clone()).collect();
    let same_rule = |name: &str| {
        let find = |config: &Config| config.rules.iter().find(|r| *r.name == *name).cloned();
        find(old) == find(new)
    };
    settings.extend(different_names("rule", rules(old), rules(new), same_rule));
    let targets = |config: &Config| config.targets.iter().map(|t| t.name.clone()).collect();
    let same_target = |name: &str| {
        let find = |config: &Config| config.targets.iter().find(|t| *t.name == *name).cloned();
        find(old) == find(new)
    };
    settings.extend(different_names("target", targets(old), targets(new), same_target));
    let tls = of_table("tls.cert_file", &old.tls, &new.tls, |old, new| {
        different!(
            old,
            new,
            Tls {
                cert_file: "tls.cert_file",
                key_file: "tls.key_file",
                client_ca_file: "tls.client_ca_file",
            }
        )
    });
    let keys = generate_keys(&old.generate, &new.generate);
    let keys = keys.into_iter().chain(tls).chain(buffer_keys(&old.buffer, &new.buffer));
    let timeout = (old.stop_timeout != new.stop_timeout).then_some("stop_timeout");
    let folder = (old.drop_in_folder != new.drop_in_folder).then_some("drop_in_folder");
    settings.extend(keys.chain(timeout).chain(folder).map(|key| format!("{key} changed")));
    settings
}

fn different_names(
    kind: &str,
    old: Vec<Arc<str>>,
    new: Vec<Arc<str>>,
    is_same: impl Fn(&str) -> bool,
) -> Vec<String> {
    let gone = old.iter().filter(|name| !new.contains(name));
    let gone = gone.map(|name| format!("{kind} {name:?} removed"));
    let other = new.iter().filter(|name| !is_same(name)).map(|name| {
        let what = if old.contains(name) { "changed" } else { "added" };
        format!("{kind} {name:?} {what}")
    });
    gone.chain(other).collect()
}

#[cfg(test)]
mod tests;
