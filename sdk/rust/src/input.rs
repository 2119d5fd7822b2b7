//! What a call is given.

use bytes::Bytes;
use orchestrator_contract::{ContentType, Payload};
use serde::de::DeserializeOwned;

use crate::Error;

/// What a call is given: bytes and what they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input(Payload);

impl Input {
    /// Wraps a payload, as a test of a plugin does.
    pub fn new(payload: Payload) -> Self {
        Self(payload)
    }

    /// Decodes JSON.
    ///
    /// # Errors
    ///
    /// [`Error::invalid_input`] when the input is not JSON or not a `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let content_type = &self.0.content_type;
        if !content_type.is_json() {
            return Err(Error::invalid_input(format_args!(
                "JSON is needed, not {content_type}"
            )));
        }
        self.0.decode().map_err(Error::invalid_input)
    }

    /// The input as text, whatever its type.
    ///
    /// # Errors
    ///
    /// [`Error::invalid_input`] when the bytes are not UTF-8.
    pub fn text(&self) -> Result<&str, Error> {
        std::str::from_utf8(&self.0.bytes).map_err(Error::invalid_input)
    }

    /// The bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.0.bytes
    }

    /// What the bytes are.
    pub fn content_type(&self) -> &ContentType {
        &self.0.content_type
    }

    /// The payload, to hand on without a copy.
    pub fn into_payload(self) -> Payload {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_that_does_not_fit_is_the_callers_fault() {
        let faults = [
            Input::new(Payload::text("1")).json::<u8>().unwrap_err(),
            Input::new(Payload::from_json_bytes("x"))
                .json::<u8>()
                .unwrap_err(),
            Input::new(Payload::from_json_bytes(&b"\xff"[..]))
                .text()
                .unwrap_err(),
        ];
        for fault in faults {
            assert_eq!(fault.exit_code(), 65, "{fault}");
        }
    }
}
