//! Refuses schemas with numbers that cannot be enforced exactly, or only at a high cost.

use serde_json::{Number, Value};

/// The first integer that is the same 64-bit float as the next one: 2^53.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Maximum least common multiple of all `multipleOf`, in units of the smallest decimal place. A
/// parser has as many states, because keywords of several parts of a schema can hold together.
const MULTIPLE_MOST: u64 = 10_000;

/// Maximum number of decimal places of `multipleOf`.
const PLACES_MOST: i32 = 6;

/// Checks all numbers of a schema.
pub fn check(schema: &Value) -> Result<(), String> {
    let mut multiples = Vec::new();
    check_value(schema, &mut multiples)?;
    let places = multiples.iter().map(|multiple| places(*multiple)).max();
    let Some(places) = places else { return Ok(()) };
    let too_large = || {
        format!(
            "has a multipleOf that is too costly: wanted at most {MULTIPLE_MOST} units of the \
             smallest decimal place, also for the least common multiple of all, and at most \
             {PLACES_MOST} decimal places"
        )
    };
    let mut common = 1_u64;
    for multiple in multiples {
        let units = (multiple * 10_f64.powi(places)).round();
        if places > PLACES_MOST || !(1.0..=MULTIPLE_MOST as f64).contains(&units) {
            return Err(too_large());
        }
        common = common_multiple(common, units as u64);
        if common > MULTIPLE_MOST {
            return Err(too_large());
        }
    }
    Ok(())
}

/// Checks the numbers of a value and collects its `multipleOf`.
fn check_value(value: &Value, multiples: &mut Vec<f64>) -> Result<(), String> {
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => Ok(()),
        Value::Number(number) => check_exact(number),
        Value::Array(values) => values.iter().try_for_each(|value| check_value(value, multiples)),
        Value::Object(members) => members.iter().try_for_each(|(name, value)| {
            if name == "multipleOf" {
                multiples.extend(value.as_f64());
            }
            check_value(value, multiples)
        }),
    }
}

fn check_exact(number: &Number) -> Result<(), String> {
    let is_exact = number.as_f64().is_some_and(|float| float.abs() < EXACT);
    if is_exact {
        return Ok(());
    }
    Err(format!("has the number {number}; wanted numbers whose absolute value is less than 2^53"))
}

/// Returns the number of decimal places, or more than [`PLACES_MOST`] if there are too many.
fn places(multiple: f64) -> i32 {
    let is_whole = |places: &i32| {
        let scaled = multiple * 10_f64.powi(*places);
        (scaled - scaled.round()).abs() <= scaled.abs() * 1e-9
    };
    (0..=PLACES_MOST).find(is_whole).unwrap_or(PLACES_MOST + 1)
}

fn common_multiple(a: u64, b: u64) -> u64 {
    let (mut divisor, mut rest) = (a, b);
    while rest > 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    (a / divisor).saturating_mul(b)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn multiples_are_bounded_together() {
        for usable in [
            json!({ "multipleOf": 10_000 }),
            json!({ "multipleOf": 0.01 }),
            json!({ "allOf": [{ "multipleOf": 0.01 }, { "multipleOf": 50 }] }),
            json!({ "properties": { "multipleOf": { "multipleOf": 2.5 } } }),
        ] {
            assert_eq!(check(&usable), Ok(()), "{usable}");
        }
        for costly in [
            json!({ "multipleOf": 10_001 }),
            json!({ "multipleOf": 0.000_000_1 }),
            json!({ "multipleOf": 1.0 / 3.0 }),
            json!({ "multipleOf": 0 }),
            json!({ "multipleOf": -1 }),
            json!({ "allOf": [{ "multipleOf": 0.0001 }, { "multipleOf": 50 }] }),
            json!({ "items": { "multipleOf": 997 }, "prefixItems": [{ "multipleOf": 991 }] }),
        ] {
            assert!(check(&costly).is_err_and(|why| why.contains("too costly")), "{costly}");
        }
    }

    #[test]
    fn numbers_that_a_float_cannot_hold_are_refused() {
        assert_eq!(check(&json!({ "const": 9_007_199_254_740_991_u64 })), Ok(()));
        for number in
            [json!(9_007_199_254_740_993_u64), json!(-9_007_199_254_740_992_i64), json!(1e300)]
        {
            let refused = check(&json!({ "enum": ["a", number] })).expect_err("refused");
            assert!(refused.contains(&number.to_string()), "{refused}");
        }
    }
}
