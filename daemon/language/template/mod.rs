//! Builds the prompt around a question, with the package's own chat template, its family's, or the
//! config's `model.template`.
//!
//! Guarantees: each template is tested at startup. The test finds out if it accepts messages in
//! parts, as a processor passes them, or as text that contains the image token, as a plain
//! tokenizer passes them, and if it accepts a system message. A template that does not put the
//! image token and the question into the prompt exactly once is refused.
//!
//! Not here: converting the prompt to tokens, which the tokenizer does.

mod families;
mod jinja;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use minijinja::context;
use minijinja::value::Serde;
use serde::Serialize;
use serde_json::Value as Json;

use super::tokenizer::{IMAGE, Tokenizer};
use crate::config::Wording;
use crate::model::{Family, ModelError, TextKind};
use families::Known;
use jinja::Jinja;
pub use jinja::strftime;

/// The placeholder of the question in `model.template`.
pub const PROMPT: &str = "{prompt}";

/// An earlier question with its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    pub question: String,
    pub answer: String,
}

pub struct ChatTemplate {
    origin: Origin,
    form: Form,
    system: System,
    instruction: String,
    answer_prefix: String,
    /// The text of the image token.
    image: String,
}

/// The origin of a template.
enum Origin {
    Config,
    Package(PathBuf),
    Known(Known),
}

enum Form {
    /// A text with `<image>` and `{prompt}`.
    Plain(String),
    Jinja {
        jinja: Box<Jinja>,
        style: Style,
        tokens: BTreeMap<String, String>,
    },
}

/// The form of a message's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// A list of parts: `[{"type": "image"}, {"type": "text", "text": …}]`
    Parts,
    /// A text: `"<image>\n…"`
    Text,
}

/// The place of the instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum System {
    /// The instruction is a separate message.
    Message(Style),
    /// The instruction comes before the first question, separated by an empty line, because the
    /// template takes no system message.
    InQuestion,
}

/// An error of the template about a conversation.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TemplateError(String);

impl ChatTemplate {
    /// Selects and tests the template: the config's, otherwise the package's, otherwise the known
    /// one of `family` and `text`.
    pub fn of(
        package: &Path,
        family: Family,
        text: TextKind,
        tokenizer: &Tokenizer,
        wording: &Wording,
    ) -> Result<ChatTemplate, ModelError> {
        for (key, words) in [
            ("model.system_prompt", &wording.system_prompt),
            ("generate.answer_prefix", &wording.answer_prefix),
        ] {
            if let Some(token) = tokenizer.special_token_in(words) {
                return Err(ModelError(format!("{key} cannot hold {token:?}")));
            }
        }
        let image = tokenizer.image_token();
        let (origin, form) = if let Some(template) = &wording.template {
            (Origin::Config, Form::Plain(template.replacen(IMAGE, image, 1)))
        } else if let Some((file, source)) = carried(package)? {
            let jinja = Jinja::new(&source).map_err(|e| wrong(&file, e))?;
            (Origin::Package(file), form(jinja, package, tokenizer)?)
        } else {
            let known = known(package, family, text, tokenizer)?;
            let jinja = Jinja::new(&known.template())
                .map_err(|e| ModelError(format!("the template of {}: {e}", known.name())))?;
            (Origin::Known(known), form(jinja, package, tokenizer)?)
        };
        let mut template = ChatTemplate {
            origin,
            form,
            system: System::InQuestion,
            instruction: wording.system_prompt.clone(),
            answer_prefix: wording.answer_prefix.clone(),
            image: image.into(),
        };
        template.try_out()?;
        Ok(template)
    }

    /// Returns the prompt for a question. The image token belongs to the first question asked.
    pub fn render(&self, past: &[Turn], question: &str) -> Result<String, TemplateError> {
        let mut text = self.write(&self.instruction, past, question)?;
        let places = text.matches(&self.image).count();
        if places != 1 {
            let (image, origin) = (&self.image, &self.origin);
            return Err(TemplateError(format!(
                "{origin} puts {image:?} into the prompt {places} times; wanted once"
            )));
        }
        // A space separates the answer prefix from the text before it, as in training texts.
        let apart = text.ends_with(char::is_whitespace)
            || self.answer_prefix.starts_with(char::is_whitespace);
        if !self.answer_prefix.is_empty() && !apart {
            text.push(' ');
        }
        Ok(text + &self.answer_prefix)
    }

    /// Finds out which messages the template accepts.
    fn try_out(&mut self) -> Result<(), ModelError> {
        self.try_style().map_err(|why| match &self.origin {
            Origin::Package(file) => wrong(
                file,
                format!("its chat template {why}; to go without it, give model.template"),
            ),
            origin => ModelError(format!("{origin} {why}")),
        })?;
        if self.instruction.is_empty() {
            return Ok(());
        }
        let first = self.style();
        let other = if first == Style::Parts { Style::Text } else { Style::Parts };
        for style in [first, other] {
            self.system = System::Message(style);
            if matches!(self.form, Form::Jinja { .. }) && self.tried(INSTRUCTION).is_ok() {
                return Ok(());
            }
        }
        self.system = System::InQuestion;
        Ok(())
    }

    fn try_style(&mut self) -> Result<(), String> {
        let Err(as_is) = self.tried("") else { return Ok(()) };
        let Form::Jinja { style, .. } = &mut self.form else { return Err(as_is) };
        *style = Style::Text;
        self.tried("").map_err(|as_text| {
            if as_is == as_text {
                return as_text;
            }
            format!("{as_is} when the message comes in parts, and {as_text} when it comes as text")
        })
    }

    /// Writes a test prompt. The error describes the fault in it.
    fn tried(&self, instruction: &str) -> Result<(), String> {
        let text = self.write(instruction, &[], QUESTION).map_err(|e| format!("fails ({e})"))?;
        let times = |part: &str| text.matches(part).count();
        let (pictures, questions) = (times(&self.image), times(QUESTION));
        if (pictures, questions) != (1, 1) {
            let image = &self.image;
            return Err(format!(
                "puts {image:?} into the prompt {pictures} times and the question {questions} \
                 times, wanted once each,"
            ));
        }
        // The template printed a list of parts as if it were text.
        if ["'type'", "\"type\""].iter().any(|key| text.contains(key)) {
            return Err("prints a message's parts as they are".into());
        }
        if !text.contains(instruction) {
            return Err("loses the system message".into());
        }
        Ok(())
    }

    fn style(&self) -> Style {
        match self.form {
            Form::Plain(_) => Style::Text,
            Form::Jinja { style, .. } => style,
        }
    }

    fn write(
        &self,
        instruction: &str,
        past: &[Turn],
        question: &str,
    ) -> Result<String, TemplateError> {
        let mut questions: Vec<String> = past.iter().map(|turn| turn.question.clone()).collect();
        questions.push(question.into());
        if !instruction.is_empty() && self.system == System::InQuestion {
            questions[0] = format!("{instruction}\n\n{}", questions[0]);
        }
        let (jinja, style, tokens) = match &self.form {
            Form::Plain(template) if past.is_empty() => {
                return Ok(template.replacen(PROMPT, &questions[0], 1));
            }
            Form::Plain(_) => {
                return Err(TemplateError(format!("{} holds no earlier question", self.origin)));
            }
            Form::Jinja { jinja, style, tokens } => (jinja, *style, tokens),
        };
        let mut messages = Vec::new();
        if let (System::Message(style), false) = (self.system, instruction.is_empty()) {
            messages.push(Message { role: "system", content: style.words(instruction) });
        }
        for (at, question) in questions.iter().enumerate() {
            let content = match at {
                0 => style.picture_and_words(&self.image, question),
                _ => style.words(question),
            };
            messages.push(Message { role: "user", content });
            if let Some(turn) = past.get(at) {
                let content = style.words(&turn.answer);
                messages.push(Message { role: "assistant", content });
            }
        }
        jinja
            .render(context! {
                messages => Serde(messages),
                tools => (),
                documents => (),
                add_generation_prompt => true,
                ..Serde(tokens)
            })
            .map_err(|e| TemplateError(e.to_string()))
    }
}

/// Shows the template's origin and the place of the instruction.
impl fmt::Display for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instruction = match self.system {
            _ if self.instruction.is_empty() => "",
            System::Message(_) => ", model.system_prompt as the system message",
            System::InQuestion => {
                ", which has no place for model.system_prompt: it stands before the question"
            }
        };
        write!(f, "{}{instruction}", self.origin)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Config => f.write_str("model.template"),
            Origin::Package(file) => {
                let name = file.file_name().unwrap_or_default();
                write!(f, "the package's {}", name.to_string_lossy())
            }
            Origin::Known(known) => write!(f, "the usual template of {}", known.name()),
        }
    }
}

#[derive(Serialize)]
struct Message {
    role: &'static str,
    content: Content,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Part {
    Image,
    Text { text: String },
}

impl Style {
    fn words(self, words: &str) -> Content {
        match self {
            Style::Parts => Content::Parts(vec![Part::Text { text: words.into() }]),
            Style::Text => Content::Text(words.into()),
        }
    }

    fn picture_and_words(self, image: &str, words: &str) -> Content {
        match self {
            Style::Parts => Content::Parts(vec![Part::Image, Part::Text { text: words.into() }]),
            Style::Text => Content::Text(format!("{image}\n{words}")),
        }
    }
}

/// A question to test a template with. No template contains it by itself.
const QUESTION: &str = "Does lookout ask?";
const INSTRUCTION: &str = "Be brief with lookout.";

fn form(jinja: Jinja, package: &Path, tokenizer: &Tokenizer) -> Result<Form, ModelError> {
    let tokens = special_tokens(package, tokenizer)?;
    Ok(Form::Jinja { jinja: Box::new(jinja), style: Style::Parts, tokens })
}

fn known(
    package: &Path,
    family: Family,
    text: TextKind,
    tokenizer: &Tokenizer,
) -> Result<Known, ModelError> {
    let knows = |token: &str| tokenizer.token_to_id(token).is_some();
    Known::of(family, text, knows).ok_or_else(|| {
        ModelError(format!(
            "model package {} carries no chat template, and none is known for a {} of {} with this \
             tokenizer: give model.template",
            package.display(),
            family.name(),
            text.name()
        ))
    })
}

/// Returns the chat template in a package, with the file that contains it.
fn carried(package: &Path) -> Result<Option<(PathBuf, String)>, ModelError> {
    let file = package.join("chat_template.jinja");
    if let Some(source) = read(&file)? {
        return Ok(Some((file, source)));
    }
    for name in ["chat_template.json", "processor_config.json", "tokenizer_config.json"] {
        let file = package.join(name);
        let Some(json) = read_json(&file)? else { continue };
        match &json["chat_template"] {
            Json::Null => {}
            Json::String(source) => return Ok(Some((file, source.clone()))),
            Json::Array(named) => {
                let default = named.iter().find(|named| named["name"] == "default");
                let source = default.and_then(|named| named["template"].as_str());
                let source = source.ok_or_else(|| {
                    wrong(&file, "no chat_template in the list is named \"default\"")
                })?;
                return Ok(Some((file, source.into())));
            }
            other => {
                let why = format!("chat_template = {other}: wanted a text or a list of them");
                return Err(wrong(&file, why));
            }
        }
    }
    Ok(None)
}

/// Returns the special tokens by the names that templates use: `bos_token`, `eos_token`, etc.
fn special_tokens(
    package: &Path,
    tokenizer: &Tokenizer,
) -> Result<BTreeMap<String, String>, ModelError> {
    let mut tokens = BTreeMap::new();
    // Some configs leave it out, because their tokenizer's class has a default.
    tokens.extend(tokenizer.bos_token().map(|bos| ("bos_token".to_string(), bos)));
    // The later file takes precedence.
    for name in ["special_tokens_map.json", "tokenizer_config.json"] {
        let Some(json) = read_json(&package.join(name))? else { continue };
        for (key, value) in json.as_object().into_iter().flatten() {
            let content = value.as_str().or_else(|| value["content"].as_str());
            if let (true, Some(content)) = (key.ends_with("_token"), content) {
                tokens.insert(key.clone(), content.into());
            }
        }
    }
    Ok(tokens)
}

fn read_json(file: &Path) -> Result<Option<Json>, ModelError> {
    let Some(text) = read(file)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|e| wrong(file, e))
}

/// Returns the text of a file, or `None` if the file does not exist.
fn read(file: &Path) -> Result<Option<String>, ModelError> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(wrong(file, e)),
    }
}

fn wrong(file: &Path, why: impl fmt::Display) -> ModelError {
    ModelError(format!("model file {}: {why}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The files of a LLaVA package that prompts need.
    struct Fake(tempfile::TempDir);

    impl Fake {
        fn new(files: &[(&str, &str)]) -> Fake {
            let folder = tempfile::tempdir().expect("a folder");
            let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokenizers");
            fs::copy(golden.join("llama_bos/tokenizer.json"), folder.path().join("tokenizer.json"))
                .expect("copy");
            for (name, text) in files {
                fs::write(folder.path().join(name), text).expect("write");
            }
            Fake(folder)
        }

        fn template(&self, wording: &Wording) -> Result<ChatTemplate, String> {
            let folder = self.0.path();
            let tokenizer = Tokenizer::load(folder).expect("tokenizer.json");
            ChatTemplate::of(folder, Family::Llava, TextKind::Llama, &tokenizer, wording)
                .map_err(|e| e.to_string())
        }

        fn prompt(&self, wording: &Wording) -> String {
            let template = self.template(wording).expect("a template");
            template.render(&[], "Who?").expect("a prompt")
        }
    }

    fn wording(system_prompt: &str, answer_prefix: &str) -> Wording {
        let (system_prompt, answer_prefix) = (system_prompt.into(), answer_prefix.into());
        Wording { template: None, system_prompt, answer_prefix }
    }

    const NONE: &Wording =
        &Wording { template: None, system_prompt: String::new(), answer_prefix: String::new() };

    const PLAIN: &str = "{% for m in messages %}{{ m.role ~ ' ' ~ m.content }}.{% endfor %}";

    #[test]
    fn the_first_file_with_a_template_is_used() {
        let named =
            |name: &str| format!("{{\"chat_template\": \"{name} {{{{ messages[0].content }}}}\"}}");
        let files = ["chat_template.json", "processor_config.json", "tokenizer_config.json"];
        let texts = files.map(named);
        let jinja = "jinja {{ messages[0].content }}".to_string();
        let all: Vec<(&str, &str)> = [("chat_template.jinja", jinja.as_str())]
            .into_iter()
            .chain(files.into_iter().zip(texts.iter().map(String::as_str)))
            .collect();
        for (at, first) in ["jinja", files[0], files[1], files[2]].iter().enumerate() {
            let fake = Fake::new(&all[at..]);
            assert_eq!(fake.prompt(NONE), format!("{first} <image>\nWho?"));
            let origin = fake.template(NONE).expect("a template").to_string();
            assert_eq!(origin, format!("the package's {}", all[at].0));
        }
        let fake = Fake::new(&[]);
        assert_eq!(fake.prompt(NONE), "USER: <image>\nWho? ASSISTANT:");
        let origin = fake.template(NONE).expect("a template").to_string();
        assert_eq!(origin, "the usual template of LLaVA-1.5");
    }

    #[test]
    fn the_config_overrides_the_package() {
        // The package's template is not read, so the config can replace a broken one.
        let fake = Fake::new(&[("chat_template.jinja", "{% what")]);
        let template = Some("Q: <image> {prompt}\nA:".to_string());
        let plain = Wording { template: template.clone(), ..Wording::default() };
        assert_eq!(fake.prompt(&plain), "Q: <image> Who?\nA:");
        let instructed = Wording { template, ..wording("Be brief.", "") };
        assert_eq!(fake.prompt(&instructed), "Q: <image> Be brief.\n\nWho?\nA:");
        let template = fake.template(&instructed).expect("a template");
        assert!(template.to_string().starts_with("model.template, which has no place"));
        let past = [Turn { question: "Is".into(), answer: "it".into() }];
        assert!(template.render(&past, "Who?").is_err());
        // Text that looks like the question's placeholder is plain text.
        assert_eq!(
            template.render(&[], "{prompt}?").expect("a prompt"),
            "Q: <image> Be brief.\n\n{prompt}?\nA:"
        );
    }

    #[test]
    fn a_system_prompt_is_placed_by_the_template() {
        let brief = wording("Be brief.", "");
        let fake = Fake::new(&[("chat_template.jinja", PLAIN)]);
        assert_eq!(fake.prompt(&brief), "system Be brief..user <image>\nWho?.");
        let refuses = format!(
            "{{% if messages[0].role == 'system' %}}{{{{ raise_exception('no') }}}}{{% endif %}}{PLAIN}"
        );
        let ignores = PLAIN.replace("in messages", "in messages if m.role == 'user'");
        for template in [refuses, ignores] {
            let fake = Fake::new(&[("chat_template.jinja", &template)]);
            assert_eq!(fake.prompt(&brief), "user <image>\nBe brief.\n\nWho?.", "{template}");
            let said = fake.template(&brief).expect("a template").to_string();
            assert!(said.contains("no place for model.system_prompt"), "{said}");
            assert!(!fake.template(NONE).expect("a template").to_string().contains("instruction"));
        }
    }

    #[test]
    fn an_answer_prefix_is_separate() {
        let fake = Fake::new(&[]);
        let prompt = |answer_prefix| fake.prompt(&wording("", answer_prefix));
        assert_eq!(prompt("Best option: ("), "USER: <image>\nWho? ASSISTANT: Best option: (");
        assert_eq!(prompt("\nBest:("), "USER: <image>\nWho? ASSISTANT:\nBest:(");
        let breaks = PLAIN.to_string() + "\n{% if add_generation_prompt %}{{ '\\n' }}{% endif %}";
        let fake = Fake::new(&[("chat_template.jinja", &breaks)]);
        assert_eq!(fake.prompt(&wording("", "Best:(")), "user <image>\nWho?.\nBest:(");
    }

    #[test]
    fn templates_that_cannot_be_used_are_refused_by_file_and_reason() {
        let refused = |name: &str, text: &str, parts: &[&str]| {
            let fake = Fake::new(&[(name, text)]);
            let error = fake.template(NONE).err().expect(text);
            for part in [name].iter().chain(parts) {
                assert!(error.contains(part), "{part:?} is not in: {error}");
            }
            assert!(!error.contains('\n'), "{error}");
        };
        let jinja = "chat_template.jinja";
        refused(jinja, "a\n{% for m in %}", &["line 2", "syntax error"]);
        let json = r#"{"chat_template": "\n\n{{ x"}"#;
        refused("chat_template.json", json, &["line 3", "syntax error"]);
        refused("tokenizer_config.json", "{", &["EOF"]);
        refused("tokenizer_config.json", r#"{"chat_template": 3}"#, &["chat_template = 3"]);
        let list = r#"{"chat_template": [{"name": "rag", "template": ""}]}"#;
        refused("processor_config.json", list, &["\"default\""]);
        refused(jinja, "{{ raise_exception('never') }}", &["line 1: the template refuses: never"]);
        let words = "{% for part in messages[0].content if part.text %}{{ part.text }}{% endfor %}";
        refused(
            jinja,
            words,
            &["\"<image>\"", "0 times", "the question 1 times", "model.template"],
        );
        let twice = "{{ messages[0].content }}{{ messages[0].content }}";
        refused(jinja, twice, &["prompt 2 times and the question 2 times"]);
        let printed = "<image>{{ messages[0].content }}";
        refused(jinja, printed, &["prints a message's parts", "2 times and the question 1"]);
    }

    #[test]
    fn an_unknown_family_is_refused_with_a_fix() {
        let fake = Fake::new(&[]);
        let tokenizer = Tokenizer::load(fake.0.path()).expect("tokenizer.json");
        let (family, text) = (Family::LlavaOnevision, TextKind::Llama);
        let found = ChatTemplate::of(fake.0.path(), family, text, &tokenizer, NONE);
        let error = found.err().expect("unknown").to_string();
        assert!(error.contains("llava_onevision of Llama"), "{error}");
        assert!(error.contains("give model.template"), "{error}");
    }

    #[test]
    fn special_tokens_in_the_config_are_refused_by_their_key() {
        let fake = Fake::new(&[]);
        for (wording, key) in [
            (wording("a </s>", ""), "model.system_prompt cannot hold \"</s>\""),
            (wording("", "<image>"), "generate.answer_prefix cannot hold \"<image>\""),
        ] {
            assert_eq!(fake.template(&wording).err().as_deref(), Some(key));
        }
    }

    #[test]
    fn the_demo_package_gets_its_training_prompt() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo/package");
        let tokenizer = Tokenizer::load(&folder).expect("tokenizer.json");
        let template = ChatTemplate::of(&folder, Family::Llava, TextKind::Llama, &tokenizer, NONE);
        let template = template.expect("a template");
        let text = template.render(&[], "What is happening?").expect("a prompt");
        assert_eq!(text, "USER: <image>\nWhat is happening? ASSISTANT:");
        // The tokens equal those of the pieces, each of which would begin with BOS by itself.
        let prompt = tokenizer.encode_around_image(&text).expect("tokens");
        let alone = |part| tokenizer.encode_around_image(part).expect("tokens").pieces.remove(0);
        let parts: Vec<Vec<u32>> = text.split(IMAGE).map(alone).collect();
        assert_eq!(prompt.pieces, [parts[0].clone(), parts[1][1..].to_vec()]);
    }
}
