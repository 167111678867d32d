//! Renders Jinja as transformers sets it up for chat templates.
//!
//! minijinja does the work. This module adds what transformers adds to jinja2 or changes in it:
//! `trim_blocks`, `lstrip_blocks`, loop controls, `raise_exception`, `strftime_now`, `tojson` as
//! Python's `json.dumps`, the methods of Python's strings and dicts, and `{% generation %}`, which
//! marks the assistant's text for training and does not change the output.
//!
//! Not here: `'%s' % x`. A template that uses it is refused with an error that names the line.

use std::fmt::Write as _;

use jiff::Zoned;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};
use minijinja_contrib::pycompat::unknown_method_callback;

const NAME: &str = "chat";

pub struct Jinja {
    environment: Environment<'static>,
}

/// An error in a template, with its line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct JinjaError(String);

impl Jinja {
    pub fn new(source: &str) -> Result<Jinja, JinjaError> {
        let mut environment = Environment::new();
        environment.set_syntax(
            SyntaxConfig::builder()
                .trim_blocks(true)
                .lstrip_blocks(true)
                .build()
                .map_err(explain)?,
        );
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", tojson);
        environment.add_template_owned(NAME, without_generation_tags(source)).map_err(explain)?;
        Ok(Jinja { environment })
    }

    pub fn render(&self, context: Value) -> Result<String, JinjaError> {
        let template = self.environment.get_template(NAME).map_err(explain)?;
        template.render(context).map_err(explain)
    }
}

fn explain(error: Error) -> JinjaError {
    let line = error.line().map(|line| format!("line {line}: ")).unwrap_or_default();
    let kind = match error.kind() {
        // The detail is sufficient.
        ErrorKind::InvalidOperation if error.detail().is_some() => String::new(),
        kind => kind.to_string(),
    };
    let detail = error.detail().unwrap_or_default();
    let colon = if kind.is_empty() || detail.is_empty() { "" } else { ": " };
    JinjaError(format!("{line}{kind}{colon}{detail}").replace('\n', " "))
}

fn raise_exception(message: &str) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, format!("the template refuses: {message}")))
}

fn strftime_now(format: &str) -> Result<String, Error> {
    strftime(format, &Zoned::now()).map_err(|e| Error::new(ErrorKind::InvalidOperation, e))
}

/// Formats a time as Python's `strftime` does in the C locale.
pub fn strftime(format: &str, time: &Zoned) -> Result<String, String> {
    jiff::fmt::strtime::format(format, time).map_err(|e| format!("strftime_now({format:?}): {e}"))
}

/// Replaces `generation` tags with `with` blocks. These end in the same way, have the same variable
/// scope, and do nothing else.
fn without_generation_tags(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, tag)) = rest.split_once("{%") {
        text.push_str(before);
        text.push_str("{%");
        rest = tag;
        // In `{%- generation +%}` only the word is replaced; signs and line breaks stay.
        let signed = tag.trim_start_matches(['-', '+']).trim_start();
        for (word, block) in [("generation", "with"), ("endgeneration", "endwith")] {
            let Some(after) = signed.strip_prefix(word) else { continue };
            if after.trim_start().trim_start_matches(['-', '+']).starts_with("%}") {
                text.push_str(&tag[..tag.len() - signed.len()]);
                text.push_str(block);
                rest = after;
            }
        }
    }
    text + rest
}

/// Writes a value as Python's `json.dumps` does. Non-ASCII characters are kept unless
/// `ensure_ascii` is set.
fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<Value> = options.get("indent")?;
    let indent = indent.filter(|indent| !indent.is_none()).map(|indent| match indent.as_usize() {
        Some(spaces) => " ".repeat(spaces.min(MAX_INDENT)),
        None => indent.to_string(),
    });
    let separators: Option<Value> = options.get("separators")?;
    let separators = separators.filter(|separators| !separators.is_none());
    let (between, after_key) = match (&separators, &indent) {
        (Some(both), _) => {
            (both.get_item_by_index(0)?.to_string(), both.get_item_by_index(1)?.to_string())
        }
        (None, Some(_)) => (",".into(), ": ".into()),
        (None, None) => (", ".into(), ": ".into()),
    };
    let flag = |key| options.get::<Option<bool>>(key).map(|flag| flag.unwrap_or(false));
    let mut json = Json {
        ascii: flag("ensure_ascii")?,
        sorted: flag("sort_keys")?,
        text: String::new(),
        indent,
        between,
        after_key,
    };
    options.assert_all_used()?;
    json.write(value, 0)?;
    Ok(json.text)
}

const MAX_INDENT: usize = 64;

struct Json {
    ascii: bool,
    sorted: bool,
    indent: Option<String>,
    between: String,
    after_key: String,
    text: String,
}

impl Json {
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => self.text.push_str("null"),
            ValueKind::Bool => self.text.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.text.push_str(&value.to_string()),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.text.push('[');
                for (at, item) in items.iter().enumerate() {
                    self.next(at, depth + 1);
                    self.write(item, depth + 1)?;
                }
                self.close(items.len(), depth, ']');
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sorted {
                    keys.sort();
                }
                self.text.push('{');
                for (at, key) in keys.iter().enumerate() {
                    self.next(at, depth + 1);
                    match key.kind() {
                        ValueKind::String => self.write(key, depth)?,
                        _ => {
                            self.text.push('"');
                            self.write(key, depth)?;
                            self.text.push('"');
                        }
                    }
                    self.text.push_str(&self.after_key);
                    self.write(&value.get_item(key)?, depth + 1)?;
                }
                self.close(keys.len(), depth, '}');
            }
            kind => {
                let why = format!("tojson: {kind} cannot be written as JSON");
                return Err(Error::new(ErrorKind::InvalidOperation, why));
            }
        }
        Ok(())
    }

    /// Writes the separator and line break before an item.
    fn next(&mut self, at: usize, depth: usize) {
        if at > 0 {
            self.text.push_str(&self.between);
        }
        self.break_line(depth);
    }

    fn close(&mut self, items: usize, depth: usize, bracket: char) {
        if items > 0 {
            self.break_line(depth);
        }
        self.text.push(bracket);
    }

    fn break_line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.text.push('\n');
            self.text.push_str(&indent.repeat(depth));
        }
    }

    fn string(&mut self, string: &str) {
        self.text.push('"');
        for c in string.chars() {
            match c {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                '\u{8}' => self.text.push_str("\\b"),
                '\u{c}' => self.text.push_str("\\f"),
                c if c < ' ' || self.ascii && c > '~' => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        // Writing to a String cannot fail.
                        let _ = write!(self.text, "\\u{unit:04x}");
                    }
                }
                c => self.text.push(c),
            }
        }
        self.text.push('"');
    }
}

#[cfg(test)]
mod tests {
    use minijinja::context;

    use super::*;

    fn render(source: &str) -> Result<String, String> {
        let jinja = Jinja::new(source).map_err(|e| e.to_string())?;
        jinja.render(context! { words => "a\"<é🐱>\n", none => () }).map_err(|e| e.to_string())
    }

    #[test]
    fn generation_tags_do_not_change_the_text() {
        let cases = [
            ("a {% generation %} b {% endgeneration %} c", "a  b  c"),
            ("a {%- generation -%} b {%- endgeneration -%} c", "abc"),
            ("a\n  {% generation %}\nb\n  {%+ endgeneration +%}\nc", "a\nb\n  \nc"),
            ("{%generation%}{% set x = 1 %}{{ x }}{%endgeneration%}{{ x }}", "1"),
            ("{% set generation = 2 %}{{ generation }}{% if generation %}!{% endif %}", "2!"),
        ];
        for (source, text) in cases {
            assert_eq!(render(source).as_deref(), Ok(text), "{source}");
        }
    }

    #[test]
    fn json_is_formatted_as_in_python() {
        let cases = [
            ("{{ words | tojson }}", r#""a\"<é🐱>\n""#),
            ("{{ words | tojson(ensure_ascii=true) }}", r#""a\"<\u00e9\ud83d\udc31>\n""#),
            (
                "{{ {'b': [1, 2.0, none], 'a': true} | tojson }}",
                r#"{"b": [1, 2.0, null], "a": true}"#,
            ),
            (
                "{{ {'b': 1, 'a': {}} | tojson(sort_keys=true, indent=2) }}",
                "{\n  \"a\": {},\n  \"b\": 1\n}",
            ),
            ("{{ [1, {'a': 2}] | tojson(separators=(',', ':')) }}", r#"[1,{"a":2}]"#),
        ];
        for (source, text) in cases {
            assert_eq!(render(source).as_deref(), Ok(text), "{source}");
        }
    }

    #[test]
    fn template_errors_name_the_line() {
        let cases = [
            ("a\n{% if x %}\nb", "line 3: syntax error: "),
            ("a\n{{ raise_exception('no\nway') }}", "line 2: the template refuses: no way"),
            ("a\n\n{{ nothing.at.all }}", "line 3: undefined value"),
            ("{{ missing | tojson }}", "line 1: tojson: undefined cannot be written as JSON"),
            ("{{ strftime_now('%E') }}", "line 1: strftime_now(\"%E\"): "),
        ];
        for (source, start) in cases {
            let error = render(source).expect_err(source);
            assert!(error.starts_with(start), "{source}: {error}");
        }
    }
}
