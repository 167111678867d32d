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
mod find;
mod jinja;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use minijinja::context;
use minijinja::value::Serde;
use serde::Serialize;

use super::tokenizer::{IMAGE, Tokenizer};
use crate::config::Wording;
use crate::model::{Family, ModelError, TextKind};
use families::Known;
use find::{carried, known, special_tokens, wrong};
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
                return Err(ModelError(format!(
                    "{key} must not contain the model's special token {token:?}"
                )));
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

    /// Returns the start of every answer, according to the config.
    pub fn answer_prefix(&self) -> &str {
        &self.answer_prefix
    }

    /// Returns the prompt for a question. The image token belongs to the first question asked.
    pub fn render(&self, past: &[Turn], question: &str) -> Result<String, TemplateError> {
        self.render_with_start(past, question, &self.answer_prefix)
    }

    /// Returns the prompt for a question whose answer starts with `start`.
    pub fn render_with_start(
        &self,
        past: &[Turn],
        question: &str,
        start: &str,
    ) -> Result<String, TemplateError> {
        let mut text = self.write(&self.instruction, past, question)?;
        let places = text.matches(&self.image).count();
        if places != 1 {
            let (image, origin) = (&self.image, &self.origin);
            return Err(TemplateError(format!(
                "{origin} puts {image:?} into the prompt {places} times; wanted once"
            )));
        }
        // A space separates the answer's start from the text before it, as in training texts.
        let apart = text.ends_with(char::is_whitespace) || start.starts_with(char::is_whitespace);
        if !start.is_empty() && !apart {
            text.push(' ');
        }
        Ok(text + start)
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

#[cfg(test)]
mod tests;
