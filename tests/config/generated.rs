//! Tests generated configs: each is accepted, or refused in one short sentence without its secrets.
//! `LOOKOUT_ROUNDS` is the number of configs (`make generated`).

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use lookout::config::{Config, drop_in};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::{everything_on, example};
use crate::support::*;

/// Number of configs without `LOOKOUT_ROUNDS`.
const CONFIGS: usize = 400;

/// A secret that a config has in its URLs and headers.
const SECRET: &str = "Planted5ecret";

/// Maximum time for one config, also on a loaded machine.
const LONGEST: Duration = Duration::from_secs(10);

/// Maximum length of a refusal in bytes, far below that of the longest value.
const LONGEST_REFUSAL: usize = 2000;

/// Values that replace those of the example.
const VALUES: &[&str] = &[
    "0",
    "-1",
    "1",
    "65536",
    "4294967296",
    "9223372036854775807",
    "-9223372036854775808",
    "99999999999999999999999",
    "0.0",
    "-0.0",
    "1e308",
    "-1e308",
    "1e-300",
    "nan",
    "inf",
    "-inf",
    "true",
    "false",
    "1979-05-27T07:32:00Z",
    "00:00:00",
    "[]",
    "{}",
    "[[]]",
    "[{}]",
    "[\"\"]",
    "{ a = 1 }",
    "\"\"",
    "\" \"",
    "\"\\u0000\"",
    "\"\\n\"",
    "\"\u{202e}\u{200b}\"",
    "\"é\u{301}\u{1f600}\"",
    "\"ſtraße İ\"",
    "\"0s\"",
    "\"-1s\"",
    "\"1ns\"",
    "\"18446744073709551615s\"",
    "\"584554531 years\"",
    "\"0 B\"",
    "\"-1 GiB\"",
    "\"1.5 GiB\"",
    "\"18446744073709551615 B\"",
    "\"99999999 PiB\"",
    "\"16777216 TiB\"",
    "\"0/0\"",
    "\"-1/3\"",
    "\"4294967296/4294967297\"",
    "\"rtsp://\"",
    "\"rtsp://:0\"",
    "\"rtsp://[::1\"",
    "\"rtsp://u:Planted5ecret@h:99999/\"",
    "\"rtsp://u:Planted5ecret@/\"",
    "\"https://u:Planted5ecret@h/%zz?key=Planted5ecret\"",
    "\"file:\"",
    "\"file:///\"",
    "\"mqtt://u:Planted5ecret@h:0\"",
    "\"0.0.0.0:0\"",
    "\"[::]:65536\"",
    "\"../../../../etc/passwd\"",
    "\"/dev/null\"",
    "\"{{ a }}\"",
    "\"{prompt}{prompt}\"",
    "\"%s%n\"",
    "\"Mo-So 00:00-24:00\"",
    "\"Mo 23:59-23:59\"",
    "[[0.0, 0.0], [1.0, 0.0], [nan, 1.0]]",
    "[{ polygon = [[0.0, 0.0], [1e-300, 0.0], [0.0, 1e-300]] }]",
];

/// Pieces of text that are inserted anywhere.
const PIECES: &[&str] = &[
    "\"",
    "'''",
    "\"\"\"",
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "=",
    "#",
    "\\",
    "\n",
    "\r",
    "\0",
    "\u{feff}",
    ".",
    ",",
    "é",
    "\u{1f600}",
    "\u{2028}",
    "= =",
    "[camera]\n",
    "[[camera]]\n",
    "[[model]]\n",
    "[grpc.x]\n",
    "a.b.c = 1\n",
    "\"\" = 1\n",
    "name = \"gate\"\n",
];

struct Generator {
    random: StdRng,
    example: Vec<String>,
    everything: Vec<String>,
}

impl Generator {
    fn new(seed: u64) -> Generator {
        Generator {
            random: StdRng::seed_from_u64(seed),
            example: example().lines().map(String::from).collect(),
            everything: everything_on(),
        }
    }

    fn value(&mut self) -> String {
        match self.random.random_range(0..20) {
            0 => format!("\"{}\"", "x".repeat(self.random.random_range(1..300_000))),
            1 => format!("{}1{}", "[".repeat(self.depth()), "]".repeat(self.depth())),
            2 => {
                let depth = self.depth();
                format!("{}1{}", "{ a = ".repeat(depth), " }".repeat(depth))
            }
            3 => self.random.random::<i64>().to_string(),
            4 => f64::from_bits(self.random.random()).to_string(),
            5 => {
                let characters: String = (0..self.random.random_range(0..40))
                    .map(|_| self.random.random::<char>())
                    .collect();
                format!("{characters:?}")
            }
            _ => (*VALUES.choose(&mut self.random).expect("values")).to_owned(),
        }
    }

    fn depth(&mut self) -> usize {
        *[1, 10, 79, 81, 1000, 50_000].choose(&mut self.random).expect("depths")
    }

    /// Returns the text of a config with one to four changes.
    fn config(&mut self) -> String {
        let mut lines =
            if self.random.random() { self.example.clone() } else { self.everything.clone() };
        for _ in 0..self.random.random_range(1..=4) {
            let at = self.random.random_range(0..lines.len());
            let with_value = |line: &&String| line.contains(" = ") && !line.starts_with('#');
            let settings: Vec<usize> =
                (0..lines.len()).filter(|at| with_value(&&lines[*at])).collect();
            let setting = *settings.choose(&mut self.random).unwrap_or(&at);
            match self.random.random_range(0..12) {
                0..=5 => {
                    let key = lines[setting].split(" = ").next().unwrap_or_default().to_owned();
                    lines[setting] = format!("{key} = {}", self.value());
                }
                6 => drop(lines.remove(at)),
                7 => lines.insert(at, lines[setting].clone()),
                8 => {
                    let piece = PIECES.choose(&mut self.random).expect("pieces");
                    let line = &mut lines[at];
                    let place = (0..=self.random.random_range(0..=line.len()))
                        .rev()
                        .find(|place| line.is_char_boundary(*place));
                    line.insert_str(place.unwrap_or(0), piece);
                }
                9 => {
                    let value = self.value();
                    lines.insert(at, format!("unknown_key = {value}"));
                }
                10 => {
                    let key = vec!["a"; self.depth()].join(".");
                    lines.insert(at, format!("{key} = 1"));
                }
                _ => lines.truncate(at.max(1)),
            }
            if lines.is_empty() {
                break;
            }
        }
        lines.join("\n")
    }
}

/// Fails if a refusal is not one short sentence, or shows a secret.
fn assert_clear(input: &str, refusal: &str) {
    let start: String = input.chars().take(3000).collect();
    assert!(!refusal.trim().is_empty() && !refusal.contains('\n'), "{refusal:?}: {start}");
    assert!(refusal.len() <= LONGEST_REFUSAL, "{} bytes: {start}", refusal.len());
    assert!(!refusal.contains(SECRET), "{refusal}: {start}");
    let is_hidden = |c: char| c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c);
    assert!(!refusal.contains(is_hidden), "{refusal:?}: {start}");
}

/// Reads a config in a thread with the stack of the daemon's, and checks its refusal.
fn read<T>(seed: u64, input: &str, read: impl FnOnce() -> Result<T, String>) -> Option<T> {
    let began = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(read));
    let result = result.unwrap_or_else(|_| panic!("seed {seed}: a panic at:\n{input}"));
    assert!(began.elapsed() < LONGEST, "seed {seed}: {:?}: {input}", began.elapsed());
    result.inspect_err(|refusal| assert_clear(input, refusal)).ok()
}

#[test]
fn generated_configs_are_accepted_or_refused_in_one_sentence() {
    let configs = rounds().unwrap_or(CONFIGS);
    let (mut accepted, mut refused) = (0, 0);
    for seed in 0..configs as u64 {
        let text = Generator::new(seed).config();
        let parse = || Config::parse(&text, Path::new("/etc/lookout")).map_err(|e| e.to_string());
        match read(seed, &text, parse) {
            Some(_) => accepted += 1,
            None => refused += 1,
        }
    }
    eprintln!("{configs} configs: {accepted} accepted, {refused} refused");
    assert!(accepted > 0 && refused > accepted, "{accepted} accepted, {refused} refused");
}

#[test]
fn generated_drop_ins_are_accepted_or_refused_in_one_sentence() {
    let folder = folder();
    let file = folder.path().join("lookout.toml");
    let drop_ins = folder.path().join("lookout.d");
    fs::write(&file, example()).expect("config");
    let configs = rounds().unwrap_or(CONFIGS);
    let (mut accepted, mut refused) = (0, 0);
    for seed in 0..configs as u64 {
        let mut generator = Generator::new(seed);
        fs::create_dir(&drop_ins).expect("a folder");
        let mut text = String::new();
        for _ in 0..generator.random.random_range(1..4) {
            let names = ["gate", "yard", "a b", "é", "", "available", ".hidden", "..", "x/y"];
            let name = *names.choose(&mut generator.random).expect("names");
            let key =
                *["fps", "window", "url", "masks", "paused", "name", "no_key", "caption_prompt"]
                    .choose(&mut generator.random)
                    .expect("keys");
            let value = generator.value();
            let url = if generator.random.random() { "url = \"rtsp://c/1\"\n" } else { "" };
            let entry = match generator.random.random_range(0..8) {
                0 => generator.config(),
                1 => format!("[[camera]]\nname = {value}"),
                2 => format!("camera = {value}"),
                _ => format!("[[camera]]\nname = {name:?}\n{url}{key} = {value}"),
            };
            let path = drop_ins.join(format!("{name}.toml"));
            let _ = match generator.random.random_range(0..12) {
                0 => fs::create_dir(&path),
                1 => std::os::unix::fs::symlink(&path, &path),
                2 => fs::write(&path, entry.as_bytes().split_at(entry.len() / 2).0),
                3 => fs::write(&path, [entry.as_bytes(), b"\xff\xfe\0"].concat()),
                _ => fs::write(&path, &entry),
            };
            text += &format!("{name}.toml:\n{entry}\n");
        }
        let config = || Config::read(&file).map_err(|e| e.to_string());
        match read(seed, &text, config) {
            Some(config) => {
                accepted += 1;
                assert!(config.drop_ins().is_ok(), "seed {seed}: {text}");
            }
            None => refused += 1,
        }
        fs::remove_dir_all(&drop_ins).expect("remove");
    }
    eprintln!("{configs} folders of drop-ins: {accepted} accepted, {refused} refused");
    assert!(accepted > 0 && refused > 0, "{accepted} accepted, {refused} refused");
}

#[test]
fn generated_settings_of_a_camera_are_accepted_or_refused_in_one_sentence() {
    for seed in 0..rounds().unwrap_or(CONFIGS) as u64 {
        let mut generator = Generator::new(seed);
        let key = match generator.random.random_range(0..4) {
            0 => vec!["a"; generator.depth()].join("."),
            1 => (*PIECES.choose(&mut generator.random).expect("pieces")).to_owned(),
            _ => "fps".to_owned(),
        };
        let text = format!("{key} = {}", generator.value());
        read(seed, &text, || drop_in::settings(&text).map_err(|e| e.to_string()));
    }
}
