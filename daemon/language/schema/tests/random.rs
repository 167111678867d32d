//! Random schemas, equal for equal seeds.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Map, Value, json};

/// Texts that need escapes, several bytes per character, or several tokens.
const TEXTS: [&str; 12] = [
    "red",
    "blue car",
    "a person walks",
    "",
    " ",
    "Straße",
    "猫🐱",
    "a\"b\\c",
    "line\nline",
    "é",
    "{}[],:",
    "true",
];
const NUMBERS: [f64; 7] = [0.1, -2.5, 3.25, 1e-7, 1e15, 0.000_123, 9_007_199_254_740_991.0];
const NAMES: [&str; 8] = ["colour", "count", "a", "", "größe", "has \"quotes\"", "猫", "people"];
const PATTERNS: [&str; 6] = [
    "^[A-Z][a-z]{1,6}$",
    "^[0-9]{2}:[0-9]{2}$",
    "^(left|right|both)$",
    "^[ab]+c?$",
    "^[äöü🐱]{1,3}$",
    "^.{2,4}$",
];

/// Makes a schema with at most `depth` levels of objects and arrays.
pub fn schema(random: &mut StdRng, depth: usize) -> Value {
    let kinds = if depth == 0 { 8 } else { 12 };
    match random.random_range(0..kinds) {
        0 => json!({ "type": "boolean" }),
        1 => json!({ "enum": enumeration(random) }),
        2 => json!({ "const": value(random) }),
        3 => integer(random),
        4 => number(random),
        5 => {
            let least = random.random_range(0..4);
            let most = least + random.random_range(0..6);
            json!({ "type": "string", "minLength": least, "maxLength": most })
        }
        6 => json!({ "type": "string", "pattern": PATTERNS.choose(random) }),
        7 => json!({ "type": ["string", "null"], "maxLength": random.random_range(0..8) }),
        8 | 9 => object(random, depth),
        10 => array(random, depth),
        _ => {
            let choices = random.random_range(1..4);
            json!({ "anyOf": (0..choices).map(|_| schema(random, depth - 1)).collect::<Vec<_>>() })
        }
    }
}

fn value(random: &mut StdRng) -> Value {
    match random.random_range(0..7) {
        0 => Value::Null,
        1 => random.random::<bool>().into(),
        2 => random.random_range(-1000..1000).into(),
        3 => json!([1, "two"]),
        4 => json!({ "a": { "b": [] } }),
        5 => NUMBERS.choose(random).copied().into(),
        _ => TEXTS.choose(random).copied().into(),
    }
}

/// Makes values that differ from each other.
fn enumeration(random: &mut StdRng) -> Vec<Value> {
    let mut values = Vec::new();
    for _ in 0..random.random_range(1..6) {
        let value = value(random);
        if !values.contains(&value) {
            values.push(value);
        }
    }
    values
}

fn integer(random: &mut StdRng) -> Value {
    let least = random.random_range(-300..300);
    let most = least + random.random_range(0..500);
    match random.random_range(0..3) {
        0 => json!({ "type": "integer", "minimum": least, "maximum": most }),
        1 => json!({ "type": "integer", "exclusiveMinimum": least, "maximum": most + 1 }),
        _ => json!({ "type": "integer", "minimum": 0, "maximum": 100, "multipleOf": 5 }),
    }
}

fn number(random: &mut StdRng) -> Value {
    let least = f64::from(random.random_range(-40..40)) / 4.0;
    let most = least + f64::from(random.random_range(1..20)) / 8.0;
    json!({ "type": "number", "minimum": least, "maximum": most })
}

fn object(random: &mut StdRng, depth: usize) -> Value {
    let mut properties = Map::new();
    for _ in 0..random.random_range(0..4) {
        let name = NAMES.choose(random).copied().unwrap_or_default();
        properties.insert(name.into(), schema(random, depth - 1));
    }
    let required: Vec<String> =
        properties.keys().filter(|_| random.random_bool(0.7)).cloned().collect();
    let mut object = json!({ "type": "object", "properties": properties, "required": required });
    match random.random_range(0..6) {
        0 => {}
        1 => object["additionalProperties"] = schema(random, 0),
        _ => object["additionalProperties"] = false.into(),
    }
    object
}

fn array(random: &mut StdRng, depth: usize) -> Value {
    let least = random.random_range(0..3);
    let most = least + random.random_range(0..3);
    let mut array =
        json!({ "type": "array", "items": schema(random, depth - 1), "maxItems": most });
    if least > 0 {
        array["minItems"] = least.into();
    }
    if random.random_bool(0.2) {
        array["prefixItems"] = json!([schema(random, 0)]);
    }
    array
}
