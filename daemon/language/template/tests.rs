//! Tests which template is found, how it is tried, and the prompts that it writes.

use std::fs;

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
    refused(jinja, words, &["\"<image>\"", "0 times", "the question 1 times", "model.template"]);
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
        (
            wording("a </s>", ""),
            "model.system_prompt must not contain the model's special token \"</s>\"",
        ),
        (
            wording("", "<image>"),
            "generate.answer_prefix must not contain the model's special token \"<image>\"",
        ),
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
