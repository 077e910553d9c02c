//! JSON from outside, in which no object gives a key twice: which of the two counts is anybody's
//! guess (RFC 8259, 4), and a person who wrote both meant both.

use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::{Map, Number, Value};
use state::text::shown;

use super::error::Problem;

/// Longest part of a key that an error repeats.
const KEY_CHARS_MAX: usize = 100;

/// The value that a body holds.
///
/// # Errors
/// The body is empty or no JSON, or an object in it gives a key twice.
pub(crate) fn parse(body: &[u8]) -> Result<Value, Problem> {
    if body.is_empty() {
        let empty = "the request body is empty; send a JSON object";
        return Err(Problem::Request(empty.to_owned()));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = JsonPlace::Top.deserialize(&mut deserializer);
    let value = value.and_then(|value| deserializer.end().map(|()| value));
    value.map_err(|error| {
        let what = match error.classify() {
            Category::Data => "is ambiguous",
            Category::Io | Category::Syntax | Category::Eof => "is not JSON",
        };
        Problem::Request(format!("the request body {what}: {error}"))
    })
}

/// Place of a value in the body.
#[derive(Clone, Copy)]
enum JsonPlace<'a> {
    Top,
    Member(&'a JsonPlace<'a>, &'a str),
    Element(&'a JsonPlace<'a>, usize),
}

impl fmt::Display for JsonPlace<'_> {
    /// Path of the value, as in `exposed_ports[0].container`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Top => Ok(()),
            Self::Member(place, key) => {
                place.fmt(f)?;
                if !matches!(place, JsonPlace::Top) {
                    f.write_str(".")?;
                }
                f.write_str(&shown(key, KEY_CHARS_MAX))
            }
            Self::Element(place, index) => write!(f, "{place}[{index}]"),
        }
    }
}

impl<'de> DeserializeSeed<'de> for JsonPlace<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for JsonPlace<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut read = Vec::new();
        while let Some(value) = elements.next_element_seed(JsonPlace::Element(&self, read.len()))? {
            read.push(value);
        }
        Ok(Value::Array(read))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut read = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            let place = JsonPlace::Member(&self, &key);
            if read.contains_key(&key) {
                return Err(A::Error::custom(format_args!(
                    "{place} is given twice; give it once"
                )));
            }
            let value = members.next_value_seed(place)?;
            read.insert(key, value);
        }
        Ok(Value::Object(read))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(body: &[u8]) -> String {
        match parse(body) {
            Err(Problem::Request(fault)) => fault,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_read_is_what_serde_reads() {
        for body in [
            r#"{"a": [1, -2, 2.5, 1e2, 18446744073709551615, "\u00fc", null, true, {"b": {}}]}"#,
            "7",
            r#""x""#,
            "[]",
        ] {
            let expected: Value = serde_json::from_str(body).unwrap();
            assert_eq!(parse(body.as_bytes()).unwrap(), expected);
        }
    }

    #[test]
    fn a_key_that_is_given_twice_is_named_at_any_depth() {
        for (body, place) in [
            (r#"{"image": "a", "name": "b", "image": "a"}"#, "image"),
            (
                r#"{"environment": {"A": "1", "B": "", "A": "2"}}"#,
                "environment.A",
            ),
            (
                r#"{"containers": [{}, {"exposed_ports": [{"host": 1, "host": 1}]}]}"#,
                "containers[1].exposed_ports[0].host",
            ),
            (r#"{"a\n": 1, "a\n": 1}"#, "a\\n"),
        ] {
            let fault = fault(body.as_bytes());
            let says = format!("ambiguous: {place} is given twice; give it once at line 1");
            assert!(fault.contains(&says), "{fault}");
        }
        assert!(parse(br#"[{"a": 1}, {"a": 2, "A": 3}]"#).is_ok());
    }

    #[test]
    fn what_is_no_json_is_refused_with_its_place() {
        for (body, says) in [
            ("", "empty"),
            ("{", "EOF"),
            ("{} x", "trailing"),
            ("{\"a\": 1e999}", "number out of range"),
            ("{'a': 1}", "key must be a string at line 1 column 2"),
        ] {
            let fault = fault(body.as_bytes());
            assert!(fault.contains(says), "{fault}");
        }
        let deep = "[".repeat(100_000);
        assert!(fault(deep.as_bytes()).contains("recursion limit"));
    }
}
