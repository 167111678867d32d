//! Reads the fields of a JSON object that a client sent, one by one. The fields before an error are
//! kept, so that a refusal can carry the client's ID.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

/// Reads the fields of an object. If it is malformed, `fields` has those before the error.
pub fn read(text: &str, fields: &mut Map<String, Value>) -> Result<(), serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_str(text);
    Fields(fields).deserialize(&mut reader).and_then(|()| reader.end())
}

/// The fields that were read so far.
struct Fields<'a>(&'a mut Map<String, Value>);

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((field, value)) = map.next_entry()? {
            self.0.insert(field, value);
        }
        Ok(())
    }
}
