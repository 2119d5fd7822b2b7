//! JSON as values, with an end to the memory they take.

use std::fmt;

use minijinja::Value;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::weighed::{CONTAINER_BYTES, ENTRY_BYTES, Items, VALUE_BYTES, Weighed};
use crate::pipeline::RESULT_BYTES_MAX;

/// What the values of one payload may take in memory, in bytes. Ordinary data
/// takes a few times its length as JSON, many small tables twenty times.
pub(crate) const DATA_BYTES_MAX: usize = 8 * RESULT_BYTES_MAX;

/// A value read from outside.
#[derive(Debug, Default)]
pub(crate) struct Data {
    pub(crate) value: Value,
    /// About what it takes in memory.
    pub(crate) bytes: usize,
}

impl Data {
    pub(crate) fn null() -> Self {
        Self {
            value: Value::from(()),
            bytes: 0,
        }
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut left = DATA_BYTES_MAX;
        let value = Reader { left: &mut left }.deserialize(deserializer)?;
        let bytes = DATA_BYTES_MAX - left;
        Ok(Self { value, bytes })
    }
}

struct Reader<'l> {
    left: &'l mut usize,
}

impl Reader<'_> {
    fn again(&mut self) -> Reader<'_> {
        Reader { left: self.left }
    }

    fn take<E: Error>(&mut self, bytes: usize) -> Result<(), E> {
        let left = self.left.checked_sub(bytes);
        *self.left = left.ok_or_else(|| {
            let limit = format!("it takes more than {DATA_BYTES_MAX} bytes of memory");
            E::custom(format!("{limit} to look into; hand the value on whole"))
        })?;
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::from(()))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_str<E: Error>(mut self, value: &str) -> Result<Value, E> {
        self.take(value.len())?;
        Ok(Value::from(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Value, A::Error> {
        self.take(CONTAINER_BYTES)?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self.again())? {
            self.take(VALUE_BYTES)?;
            items.push(item);
        }
        items.shrink_to_fit();
        Weighed::outside(Items::List(items)).map_err(A::Error::custom)
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Value, A::Error> {
        self.take(CONTAINER_BYTES)?;
        let mut entries = Vec::new();
        while let Some(key) = map.next_key_seed(self.again())? {
            self.take(ENTRY_BYTES)?;
            entries.push((key, map.next_value_seed(self.again())?));
        }
        Weighed::outside(Items::table(entries)).map_err(A::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<String, String> {
        let data: Result<Data, _> = serde_json::from_str(json);
        data.map(|data| data.value.to_string())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn every_kind_of_json_has_a_value() {
        for (json, shown) in [
            ("null", "None"),
            (
                "[true, -1, 18446744073709551615, 0.5]",
                "[True, -1, 18446744073709551615, 0.5]",
            ),
            (r#"{"b": "x", "a": {}, "b": "y"}"#, "{'a': {}, 'b': 'y'}"),
            (r#""\u00e9""#, "é"),
        ] {
            assert_eq!(read(json).as_deref(), Ok(shown));
        }
        assert!(read("[1").is_err());
    }

    /// A byte or two of JSON each, and many of memory.
    #[test]
    fn memory_is_bounded_whatever_the_data() {
        let read = |json: &str| {
            let mut left = 100_000;
            let mut json = serde_json::Deserializer::from_str(json);
            Reader { left: &mut left }.deserialize(&mut json)
        };
        for item in ["0", "[]", "{}", r#"{"a":1}"#, "[[[[]]]]"] {
            let json = format!("[{}]", vec![item; 25_000 / item.len()].join(","));
            let error = read(&json).expect_err(item).to_string();
            assert!(error.contains("to look into"), "{item}: {error}");
        }
        let text = "x".repeat(100_000);
        read(&format!("[\"{text}\"]")).unwrap_err();
        read(&format!(
            "[{}]",
            vec!["\"a text of thirty letters ....\""; 1_000].join(",")
        ))
        .unwrap();
    }
}
