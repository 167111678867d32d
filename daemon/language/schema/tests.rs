//! Tests that texts by a schema parse and validate, with random schemas, the vocabularies of several
//! models, and the demo's model.

mod random;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::tokenizer::TokenStream;
use super::super::{
    Budget, LanguageBackend, LanguageModel, Limits, Output, Reply, Request, SequenceId, Task,
    Urgency,
};
use super::*;
use crate::config::{Model, Sampling, Wording};
use crate::event::FinishReason;
use crate::model::on_the_cpu;
use crate::slowfast::VideoTokens;

/// Tokens of a text, at most.
const MOST: usize = 64;
const SLOTS: usize = 6;
const QUESTION: &str = "What happens?";

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// A byte-level vocabulary, and two with byte tokens and a space before the first word.
fn tokenizers() -> Vec<(Arc<Tokenizer>, u32)> {
    let load = |name: &str, end: &str| {
        let tokenizer = Tokenizer::load(&folder(name)).expect("a tokenizer");
        let end = tokenizer.token_to_id(end).expect("an end token");
        (Arc::new(tokenizer), end)
    };
    vec![
        load("models/demo/package", "</s>"),
        load("tests/golden/tokenizers/llama_bos", "</s>"),
        load("tests/golden/tokenizers/chatml_nobos_legacy", "<|im_end|>"),
    ]
}

fn compiler((tokenizer, end): &(Arc<Tokenizer>, u32)) -> SchemaCompiler {
    // Models have more rows than tokens.
    let vocabulary = tokenizer.vocab_size() + 7;
    SchemaCompiler::new(tokenizer.clone(), &[*end], vocabulary)
}

/// Fails unless the text is JSON by the schema.
fn validate(schema: &Value, text: &str) {
    let value: Value = serde_json::from_str(text)
        .unwrap_or_else(|error| panic!("{error}: {text:?} by the schema {schema}"));
    let validator = jsonschema::validator_for(schema).expect("a valid schema");
    if let Err(error) = validator.validate(&value) {
        panic!("{error}: {text:?} by the schema {schema}");
    }
}

/// Returns true if the constraint accepts the tokens of a text.
fn accepts(compiler: &SchemaCompiler, schema: &str, text: &str) -> bool {
    let mut constraint = compiler.compile(schema).expect("a schema").constraint();
    let Vocabulary::Model { tokenizer, .. } = &compiler.vocabulary else { panic!("no model") };
    let tokens = tokenizer.token_bytes().expect("bytes");
    // A byte-level vocabulary has a token for each byte.
    let id = |byte: u8| tokens.iter().position(|token| *token == [byte]).expect("a token") as u32;
    text.bytes().all(|byte| constraint.push(id(byte)).is_ok())
}

#[test]
fn white_space_of_another_engine_is_allowed_on_request() {
    let of_model = &tokenizers()[0];
    let schema = r#"{"type": "object", "properties": {"a": {"type": "boolean"}}}"#;
    let (ours, any) = (compiler(of_model), compiler(of_model).with_any_whitespace());
    assert!(accepts(&ours, schema, "{\"a\": true}"));
    for text in ["{\"a\": true}", "{\"a\":true}", "{\n  \"a\" : true\n}"] {
        assert!(accepts(&any, schema, text), "{text}");
    }
    assert!(!accepts(&ours, schema, "{\"a\":true}"));
    assert!(!accepts(&any, schema, "{\"a\": 1}"));
}

#[test]
fn a_number_of_sixteen_digits_is_read_exactly() {
    let compiler = compiler(&tokenizers()[0]);
    let schema = r#"{"const": 9007199254740991.0}"#;
    assert!(accepts(&compiler, schema, "9007199254740991"));
    assert!(!accepts(&compiler, schema, "9007199254740990"));
}

/// Generates a text from random allowed tokens. Returns its ids, or `None` if it is too long.
fn walk(constraint: &mut Constraint, end: u32, random: &mut StdRng) -> Option<Vec<u32>> {
    let mut sampler = super::super::Sampler::new(Sampling::Nucleus {
        temperature: 1.0,
        top_p: 1.0,
        seed: random.random(),
    });
    let mut ids = Vec::new();
    while ids.len() < 300 {
        let allowed = constraint.allowed().expect("allowed tokens");
        let logits: Vec<f32> =
            (0..allowed.len() * 32).map(|_| random.random_range(0.0..6.0)).collect();
        let id = sampler.next_allowed(&logits, allowed).expect("a token");
        if id == end {
            return Some(ids);
        }
        constraint.push(id).expect("an allowed token");
        ids.push(id);
        if constraint.is_complete() {
            return Some(ids);
        }
    }
    None
}

#[test]
fn random_tokens_of_every_vocabulary_validate() {
    let mut random = StdRng::seed_from_u64(1);
    for of_model in &tokenizers() {
        let (tokenizer, end) = of_model;
        let compiler = compiler(of_model);
        let mut complete = 0;
        for _ in 0..100 {
            let schema = random::schema(&mut random, 3);
            let compiled = compiler.compile(&schema.to_string());
            let compiled = compiled.unwrap_or_else(|error| panic!("{error}: {schema}"));
            let Some(ids) = walk(&mut compiled.constraint(), *end, &mut random) else { continue };
            let text = tokenizer.decode(&ids).expect("text");
            validate(&schema, &text);
            // The text is the same as it is streamed.
            let mut stream = TokenStream::default();
            let mut streamed: String =
                ids.iter().map(|id| stream.push(tokenizer, *id).expect("text")).collect();
            streamed += &stream.finish(tokenizer).expect("text");
            assert_eq!(streamed, text);
            complete += 1;
        }
        assert!(complete > 50, "only {complete} texts have ended");
    }
}

/// Returns the ids of the allowed tokens.
fn allowed_ids(constraint: &mut Constraint) -> Vec<u32> {
    let allowed = constraint.allowed().expect("allowed tokens");
    (0..allowed.len() as u32 * 32)
        .filter(|id| allowed[*id as usize / 32] >> (id % 32) & 1 > 0)
        .collect()
}

#[test]
fn the_end_token_is_allowed_only_where_the_text_may_end() {
    for of_model in &tokenizers() {
        let (tokenizer, end) = of_model;
        let schema = compiler(of_model)
            .compile(r#"{"type": "integer", "minimum": 0, "maximum": 99}"#)
            .expect("a schema");
        let mut number = schema.constraint();
        let first = allowed_ids(&mut number);
        assert!(!first.contains(end) && first.len() >= 10);
        let added = ["<s>", "<image>", "<unk>"]
            .into_iter()
            .filter_map(|token| tokenizer.token_to_id(token));
        assert!(added.into_iter().all(|id| !first.contains(&id)));
        let digit =
            *first.iter().find(|id| tokenizer.decode(&[**id]).expect("text") == "7").expect("7");
        number.push(digit).expect("a digit");
        assert!(!number.is_complete() && allowed_ids(&mut number).contains(end));
        number.push(digit).expect("a digit");
        assert!(number.is_complete(), "no number of three digits");
    }
}

#[test]
fn an_empty_object_needs_two_characters() {
    for of_model in &tokenizers() {
        let schema = compiler(of_model)
            .compile(r#"{"type": "object", "additionalProperties": false}"#)
            .expect("a schema");
        let mut random = StdRng::seed_from_u64(3);
        let ids = walk(&mut schema.constraint(), of_model.1, &mut random).expect("an end");
        assert_eq!(of_model.0.decode(&ids).expect("text"), "{}");
    }
}

#[test]
fn unusable_schemas_are_refused_with_the_reason() {
    let compiler = compiler(&tokenizers()[0]);
    for (schema, reason) in [
        ("{", "schema is not JSON: EOF"),
        ("[]", "schema is not a JSON object"),
        ("true", "schema is not a JSON object"),
        (r#"{"x-guidance": {"lenient": true}}"#, "unknown keyword \"x-guidance\""),
        (r#"{"type": "thing"}"#, "schema cannot be used: "),
        (r#"{"type": "array", "uniqueItems": true}"#, "uniqueItems"),
        (r#"{"not": {"type": "null"}}"#, "not"),
        (r#"{"if": {"type": "null"}}"#, "if"),
        (r#"{"type": "string", "pattern": "("}"#, "schema cannot be used: "),
        (r#"{"$ref": "https://example.com/schema.json"}"#, "schema cannot be used: "),
        (r##"{"$ref": "#/$defs/missing"}"##, "schema cannot be used: "),
        (r#"{"type": "integer", "minimum": 3, "maximum": 2}"#, "schema cannot be used: "),
        (r#"{"multipleOf": 99991}"#, "schema has a multipleOf that is too costly"),
        (r#"{"const": 9007199254740993}"#, "schema has the number 9007199254740993"),
    ] {
        let refused =
            compiler.compile(schema).err().unwrap_or_else(|| panic!("accepted: {schema}"));
        let refused = refused.to_string();
        assert!(refused.contains(reason), "{schema}: {refused}");
        assert!(!refused.contains('\n') && refused.len() < 500, "{refused}");
    }
}

/// Each schema is refused, or its tokens are found in bounded time.
#[test]
fn costly_schemas_take_bounded_time() {
    let of_model = &tokenizers()[0];
    let compiler = compiler(of_model);
    let nested = |open: &str, inner: &str, close: &str, times: usize| {
        open.repeat(times) + inner + &close.repeat(times)
    };
    let choices: Vec<String> = (0..900).map(|at| format!("\"value {at}\"")).collect();
    let chain: Vec<String> =
        (0..400).map(|at| format!(r##""d{at}":{{"$ref":"#/$defs/d{}"}}"##, at + 1)).collect();
    let pattern =
        |pattern: &str| serde_json::json!({ "type": "string", "pattern": pattern }).to_string();
    let either =
        r#"{"anyOf":[{"properties":{"a":{"type":"null"}}},{"required":["b"]},{"maxLength":9}]}"#;
    let names: Vec<String> = (0..700).map(|at| format!(r#""property {at}":{{}}"#)).collect();
    let patterns: Vec<String> = (0..200).map(|at| format!(r#""^a{at}.*z$":{{}}"#)).collect();
    let schemas = [
        nested(r#"{"items":"#, "{}", "}", 120),
        nested(r#"{"anyOf":[{"type":"null"},"#, "{}", "]}", 60),
        nested(r#"{"allOf":[{"minLength":1},"#, r#"{"type":"string"}"#, "]}", 60),
        format!(r#"{{"enum":[{}]}}"#, choices.join(",")),
        format!(r##"{{"$ref":"#/$defs/d0","$defs":{{{},"d400":{{}}}}}}"##, chain.join(",")),
        r##"{"$ref":"#/$defs/a","$defs":{"a":{"anyOf":[{"$ref":"#/$defs/a"},{"type":"null"}]}}}"##
            .into(),
        r##"{"type":"array","items":{"$ref":"#"}}"##.into(),
        r#"{"type":"string","maxLength":1000000000}"#.into(),
        r#"{"type":"string","minLength":100000}"#.into(),
        r#"{"type":"array","minItems":1000000,"maxItems":1000001}"#.into(),
        r#"{"type":"array","items":{"type":"string"},"minItems":5000}"#.into(),
        r#"{"type":"number","multipleOf":0.0000001,"minimum":-1e300,"maximum":1e300}"#.into(),
        r#"{"type":"integer","multipleOf":10000}"#.into(),
        format!(r#"{{"allOf":[{}]}}"#, [either; 12].join(",")),
        format!(r#"{{"oneOf":[{}]}}"#, vec![r#"{"properties":{"a":{}}}"#; 200].join(",")),
        format!(r#"{{"properties":{{{}}}}}"#, names.join(",")),
        format!(r#"{{"properties":{{{}}},"maxProperties":40}}"#, names.join(",")),
        format!(r#"{{"patternProperties":{{{}}}}}"#, patterns.join(",")),
        pattern("^.*a.*b.*c.*d.*e.*f.*$"),
        pattern("^(.*x.*y|.*z){1,50}$"),
        r#"{"type":"array","items":{"type":"array","items":{"maxLength":5000},"maxItems":5000}}"#
            .into(),
        pattern("^(a|b)*a(a|b){40}$"),
        pattern("^(a?){2000}a{2000}$"),
        pattern("^((a{1,100}){1,100}){1,100}$"),
        pattern(&nested("(", "a", ")*", 200)),
        pattern("^(?=x).*$"),
        "{}".into(),
    ];
    let mut random = StdRng::seed_from_u64(5);
    let mut slowest = (Duration::ZERO, String::new());
    for schema in schemas {
        let started = Instant::now();
        let compiled = compiler.compile(&schema);
        let took = started.elapsed();
        if took > slowest.0 {
            slowest = (took, schema.clone());
        }
        let start: String = schema.chars().take(60).collect();
        let mut constraint = match compiled {
            Ok(compiled) => compiled.constraint(),
            Err(error) => {
                println!("{took:?} refused: {start}: {error}");
                continue;
            }
        };
        let mut steps = Duration::ZERO;
        let mut worst = Duration::ZERO;
        let mut count = 0;
        let outcome = loop {
            let started = Instant::now();
            let Ok(allowed) = constraint.allowed().map(<[u32]>::to_vec) else { break "failed" };
            let ids: Vec<u32> =
                (0..512).filter(|id| allowed[*id as usize / 32] >> (id % 32) & 1 > 0).collect();
            let id = ids[random.random_range(0..ids.len())];
            if id == of_model.1 || count > 200 {
                break "ended";
            }
            if constraint.push(id).is_err() {
                break "failed";
            }
            if constraint.is_complete() {
                break "complete";
            }
            let took = started.elapsed();
            (steps, worst, count) = (steps + took, worst.max(took), count + 1);
        };
        println!("{took:?}, {count} tokens {steps:?} (slowest {worst:?}) {outcome}: {start}");
    }
    println!("slowest: {slowest:?}");
    // It takes about 0.2 s on a machine that does nothing else.
    assert!(slowest.0 < Duration::from_secs(20), "{slowest:?}");
}

/// Loads the demo's model.
fn language() -> LanguageModel {
    let (runtime, package) = on_the_cpu();
    let mut keys = toml::toml! {
        package = "" device = "cpu" plan = "1:slowfast-slow_1frms_concat-fast_1x1"
    };
    keys["package"] = package.folder.display().to_string().into();
    let model = Model::of(keys).expect("a config");
    let budget = Budget { max_new_tokens: MOST, slots: SLOTS, prefix_bytes: 0 };
    let wording = Wording { answer_prefix: "Answer: (".into(), ..Wording::default() };
    LanguageModel::with_capacity(runtime, package, &model, &wording, budget, 320).expect("a model")
}

fn video(language: &LanguageModel, number: usize) -> VideoTokens {
    let dim = language.batch.dim;
    let rows = (0..48 * dim).map(|at| ((at * 37 + number * 11) % 101) as f32 / 50.0 - 1.0);
    VideoTokens { rows: rows.collect(), dim }
}

fn submit(
    language: &mut LanguageModel,
    video: &VideoTokens,
    schema: Option<&Schema>,
    sampling: Sampling,
) -> SequenceId {
    let limits = Limits { max_new_tokens: MOST, sampling };
    let task = Task::Text { turns: &[], prompt: QUESTION, limits, schema };
    let request = Request { video, prefix_frames: None, jpegs: None, task, urgency: Urgency::Now };
    language.submit(request).expect("a free slot").id
}

/// Steps the model once, and adds the replies of the texts that have ended.
fn step(language: &mut LanguageModel, replies: &mut BTreeMap<SequenceId, Reply>) {
    let polled = language.poll(&mut |id, output| match output {
        Output::Finished(reply) => drop(replies.insert(id, reply)),
        Output::Failed(failure) => panic!("{failure}"),
        Output::Text(_) | Output::Scored(_) => {}
    });
    polled.expect("a step");
}

/// Tests that the demo's model gives a text by the schema or one that ends for its length, together
/// with other texts with and without schemas. `LOOKOUT_SCHEMAS` is the number of schemas.
#[test]
fn texts_of_the_model_validate() {
    let count =
        std::env::var("LOOKOUT_SCHEMAS").map_or(48, |count| count.parse().expect("a number"));
    let mut language = language();
    let compiler = language.schemas();
    let mut random = StdRng::seed_from_u64(7);
    let mut replies = BTreeMap::new();
    let greedy = Sampling::Greedy;
    let first = video(&language, 0);
    submit(&mut language, &first, None, greedy);
    while language.sequences() > 0 {
        step(&mut language, &mut replies);
    }
    let (_, alone) = replies.pop_first().expect("a reply");
    let (mut schemas, mut plain) = (BTreeMap::new(), Vec::new());
    let (mut complete, mut cut) = (0, 0);
    for number in 0..count {
        let schema = random::schema(&mut random, 3);
        let compiled = compiler.compile(&schema.to_string());
        let compiled = compiled.unwrap_or_else(|error| panic!("{error}: {schema}"));
        let sampling = if number % 2 == 0 {
            greedy
        } else {
            Sampling::Nucleus { temperature: 1.5, top_p: 0.95, seed: number as u64 }
        };
        let video = video(&language, number);
        schemas.insert(submit(&mut language, &video, Some(&compiled), sampling), schema);
        if number % 8 == 0 {
            plain.push(submit(&mut language, &first, None, greedy));
        }
        while language.sequences() > SLOTS - 2 || number + 1 == count && language.sequences() > 0 {
            step(&mut language, &mut replies);
        }
    }
    for id in plain {
        assert_eq!(replies[&id].text, alone.text, "a schema changes another text");
    }
    for (id, schema) in &schemas {
        let Reply { text, finish, .. } = &replies[id];
        match finish {
            FinishReason::Stop => {
                validate(schema, text);
                complete += 1;
            }
            FinishReason::Length => cut += 1,
        }
    }
    println!("{complete} texts validate, {cut} ended for their length");
    assert!(complete > count / 2, "{complete} of {count} texts have ended");
}

#[test]
fn a_text_of_bytes_is_checked_against_its_schema() {
    let compiler = SchemaCompiler::of_bytes();
    let schema = r#"{"type": "object", "properties": {"dog": {"type": "boolean"},
        "words": {"type": "array", "items": {"type": "string"}}}, "required": ["dog", "words"],
        "additionalProperties": false}"#;
    let schema = compiler.compile(schema).expect("a schema");
    // Each text comes in pieces of three characters.
    let outcome = |text: &str| {
        let mut constraint = schema.constraint();
        let characters: Vec<char> = text.chars().collect();
        for piece in characters.chunks(3) {
            constraint.push_text(&piece.iter().collect::<String>()).ok()?;
        }
        Some(constraint.can_end())
    };
    for whole in [
        r#"{"dog": true, "words": []}"#,
        "{\n  \"dog\": false,\n  \"words\": [\"café\", \"犬\"]\n}\n\n",
        r#"{"dog":true,"words":["a"]}"#,
    ] {
        assert_eq!(outcome(whole), Some(true), "{whole}");
    }
    for part in ["", "{", r#"{"dog": true"#, r#"{"dog": true, "words": ["a"#] {
        assert_eq!(outcome(part), Some(false), "{part}");
    }
    for wrong in [
        "A dog.",
        "[]",
        r#"{"dog": 1"#,
        r#"{"cat": true"#,
        r#"{"dog": true, "words": [7]}"#,
        r#"{"dog": true, "words": []} and"#,
    ] {
        assert_eq!(outcome(wrong), None, "{wrong}");
    }
}
