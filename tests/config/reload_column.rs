//! Finds out what a reload does with each key of the example: it changes the key's value and asks
//! `reload::plan`, as the daemon does.

use std::sync::OnceLock;

use lookout::config::Config;
use lookout::reload::{Plan, plan};

use super::{everything_on, everything_on_with_openai, example, key, parse};

/// Values that are tried, until one is valid for the key and changes the config.
const VALUES: [&str; 41] = [
    "\"<image> {prompt}\"",
    "\"other\"",
    "false",
    "true",
    "2",
    "333",
    "0.3",
    "0.5",
    "\"12s\"",
    "\"33s\"",
    "\"3h\"",
    "\"3 KiB\"",
    "\"33 MiB\"",
    "\"7 GiB\"",
    "\"1/2\"",
    "\"127.0.0.1:4000\"",
    "\"rtsps://192.168.1.20/other\"",
    "\"https://other.example\"",
    "\"mqtts://127.0.0.1:1884\"",
    "\"paper\"",
    "\"pad\"",
    "\"list\"",
    "\"all\"",
    "\"cpu\"",
    "\"udp\"",
    "\"onnxruntime\"",
    "\"keyframes\"",
    "\"critical\"",
    "\"alert\"",
    "\"none\"",
    "\"inline\"",
    "\"text\"",
    "\"Mon\"",
    "\"Europe/Paris\"",
    "{ A = \"b\" }",
    "{ vision = \"fp16\" }",
    "[\"gate\"]",
    "[\"new\"]",
    "[\"https://other.example\"]",
    "[]",
    "'{\"type\": \"string\"}'",
];

/// Values of the example that make other keys ineffective, and what they are replaced with.
const MATTERS: [(&str, &str); 3] = [
    ("enabled = false", "enabled = true"),
    ("temperature = 0.0", "temperature = 0.5"),
    ("clip = \"none\"", "clip = \"alert\""),
];

/// The effect of a reload on a changed key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reload {
    Live,
    Reconnects,
    Restart,
}

impl Reload {
    pub fn word(self) -> &'static str {
        match self {
            Reload::Live => "live",
            Reload::Reconnects => "reconnects",
            Reload::Restart => "restart",
        }
    }

    pub fn sentence(self) -> &'static str {
        match self {
            Reload::Live => "A reload applies a change.",
            Reload::Reconnects => "A reload applies a change and connects the camera again.",
            Reload::Restart => "A change needs a restart.",
        }
    }

    fn of(plan: &Plan) -> Option<Reload> {
        let changes = plan.changed.len() + plan.added.len() + plan.settings.len();
        if !plan.needs_restart.is_empty() {
            Some(Reload::Restart)
        } else if plan.changed.iter().any(|change| change.reconnects) {
            Some(Reload::Reconnects)
        } else {
            (changes > 0).then_some(Reload::Live)
        }
    }
}

/// Returns what a reload does with the key in this line of the example.
pub fn of_line(line: usize) -> Reload {
    static FOUND: OnceLock<Vec<Option<Reload>>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let lines = everything_on();
        let keys = lines.iter().enumerate().filter(|(_, line)| key(line).is_some());
        let mut found = vec![None; lines.len()];
        keys.for_each(|(at, _)| found[at] = find(at));
        let is_missing = |at: &usize| key(&lines[*at]).is_some() && found[*at].is_none();
        let missing: Vec<&str> =
            (0..lines.len()).filter(is_missing).map(|at| &*lines[at]).collect();
        assert!(missing.is_empty(), "no value of VALUES changes the config: {missing:#?}");
        found
    });
    found[line].expect("a line with a key")
}

/// Changes the key in this line until the plan has a change.
fn find(line: usize) -> Option<Reload> {
    let as_shown = example().replace("\"rtsp://", "\"rtsps://");
    let as_shown: Vec<String> = as_shown.lines().map(String::from).collect();
    let everything = everything_on();
    let name = key(&everything[line])?.to_owned();
    let shown = kind(as_shown[line].split_once(" = ")?.1);
    let values = VALUES.into_iter().filter(|value| kind(value) == shown);
    let mut bases = [everything, as_shown, everything_on_with_openai()];
    for lines in &mut bases {
        for (from, to) in MATTERS {
            let at = lines.iter().position(|line| line == from).expect(from);
            lines[at] = to.into();
        }
    }
    bases.iter().find_map(|lines| {
        let old = read(lines).expect("the example");
        values.clone().find_map(|value| {
            let mut changed = lines.clone();
            changed[line] = format!("{name} = {value}");
            // Without an address that other machines can reach, `insecure` changes nothing.
            if name == "insecure" {
                let listen = (0..line).rev().find(|at| lines[*at].starts_with("listen = "))?;
                changed[listen] = "listen = \"0.0.0.0:4000\"\ntls = false".into();
            }
            // Without servers, the keys of servers are refused.
            if name == "backend" {
                let table =
                    changed[line + 1..].iter_mut().take_while(|line| !line.starts_with('['));
                table.for_each(String::clear);
            }
            let new = read(&changed).ok()?;
            plan(&old, &new).ok().as_ref().and_then(Reload::of)
        })
    })
}

/// Returns what a value is, by its first letter: a text, a number, a list and so on.
fn kind(value: &str) -> char {
    match value.chars().next().expect("a value") {
        '0'..='9' => '0',
        't' | 'f' => 't',
        '\'' => '"',
        other => other,
    }
}

fn read(lines: &[String]) -> Result<Config, String> {
    parse(&lines.join("\n"))
}

#[test]
fn a_reload_treats_some_keys_as_the_plan_says() {
    let found = |wanted: &str| {
        let at = example().lines().position(|line| line == wanted);
        of_line(at.unwrap_or_else(|| panic!("{wanted} is not in the example")))
    };
    assert_eq!(found("fps = 1.0"), Reload::Reconnects);
    assert_eq!(found("caption_prompt = \"What is happening?\""), Reload::Live);
    assert_eq!(found("seed = 0"), Reload::Live);
    assert_eq!(found("prefill_chunk = 512"), Reload::Restart);
}
