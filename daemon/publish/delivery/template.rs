//! Renders the body of a webhook by the Jinja template of the config.
//!
//! The template sees the fields of the alert's JSON, and the filter `tojson`.

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};
use serde::Serialize;

const NAME: &str = "template";

pub struct Template {
    environment: Environment<'static>,
}

impl Template {
    pub fn new(source: &str) -> Result<Template, String> {
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.add_filter("tojson", to_json);
        let added = environment.add_template_owned(NAME, source.to_owned());
        added.map_err(|error| explain(&error))?;
        Ok(Template { environment })
    }

    pub fn render(&self, event: &impl Serialize) -> Result<String, String> {
        let template = self.environment.get_template(NAME).map_err(|error| explain(&error))?;
        template.render(Serde(event)).map_err(|error| explain(&error))
    }
}

fn to_json(value: &Value) -> Result<Value, Error> {
    let json = serde_json::to_string(value);
    json.map(Value::from).map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))
}

fn explain(error: &Error) -> String {
    let line = error.line().map(|line| format!("line {line}: ")).unwrap_or_default();
    let detail = error.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
    format!("{line}{}{detail}", error.kind()).replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_sees_the_fields_of_the_event() {
        let event = serde_json::json!({
            "camera": "gate", "question": "Is \"it\"\nthere?", "window": {"to": "noon"}
        });
        let source = r#"{"text": {{ question | tojson }}, "at": "{{ window.to }} {{ camera }}"}"#;
        let body = Template::new(source).unwrap().render(&event).unwrap();
        assert_eq!(body, r#"{"text": "Is \"it\"\nthere?", "at": "noon gate"}"#);
    }

    #[test]
    fn an_error_names_its_line() {
        let error = Template::new("{\n{{ camera ").err().unwrap();
        assert!(error.starts_with("line 2: syntax error"), "{error}");
        let template = Template::new("{{ camera.name.length }}").unwrap();
        let error = template.render(&serde_json::json!({})).unwrap_err();
        assert!(error.starts_with("line 1: undefined value"), "{error}");
    }
}
