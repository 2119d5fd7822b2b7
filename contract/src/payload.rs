//! What calls and replies carry.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// `application/json`
pub const JSON: ContentType = ContentType(Cow::Borrowed("application/json"));
/// `text/plain; charset=utf-8`
pub const TEXT: ContentType = ContentType(Cow::Borrowed("text/plain; charset=utf-8"));

/// The media type of a payload ([RFC 9110 §8.3](https://www.rfc-editor.org/rfc/rfc9110#section-8.3)).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContentType(Cow<'static, str>);

impl ContentType {
    /// Names a media type.
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self(name.into())
    }

    /// The media type as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The type without its parameters: `text/plain` of
    /// `text/plain; charset=utf-8`.
    pub fn essence(&self) -> &str {
        self.0.split(';').next().unwrap_or_default().trim()
    }

    /// Whether the bytes are JSON (`application/json` or a `+json` type).
    pub fn is_json(&self) -> bool {
        let essence = self.essence();
        essence.eq_ignore_ascii_case("application/json") || essence.ends_with("+json")
    }

    /// Whether the bytes are text (`text/*`).
    pub fn is_text(&self) -> bool {
        self.essence()
            .get(..5)
            .is_some_and(|start| start.eq_ignore_ascii_case("text/"))
    }
}

impl fmt::Display for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A content type and the bytes, which are never re-encoded on their way from
/// one phase to the next. Cloning copies a pointer.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload {
    /// What the bytes are.
    pub content_type: ContentType,
    /// The bytes themselves.
    pub bytes: Bytes,
}

impl Payload {
    /// Bytes of a stated type.
    pub fn new(content_type: ContentType, bytes: impl Into<Bytes>) -> Self {
        Self {
            content_type,
            bytes: bytes.into(),
        }
    }

    /// Bytes that already are JSON.
    pub fn from_json_bytes(bytes: impl Into<Bytes>) -> Self {
        Self::new(JSON, bytes)
    }

    /// UTF-8 text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::new(TEXT, text.into().into_bytes())
    }

    /// The JSON value `null`.
    pub fn null() -> Self {
        Self::new(JSON, Bytes::from_static(b"null"))
    }

    /// Encodes a value as JSON.
    ///
    /// # Errors
    ///
    /// When `value` cannot be JSON, such as a map whose keys are not strings.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        serde_json::to_vec(value).map(Self::from_json_bytes)
    }

    /// Decodes JSON.
    ///
    /// # Errors
    ///
    /// When the bytes are not JSON or not a `T`; the content type is not
    /// consulted.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.bytes)
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl fmt::Debug for Payload {
    /// Shows the size and not the content, which may be secret and large.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.content_type, self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_recognised_with_parameters_and_suffixes() {
        assert!(ContentType::new("application/json; charset=utf-8").is_json());
        assert!(ContentType::new("application/problem+json").is_json());
        assert!(!TEXT.is_json());
        assert!(TEXT.is_text());
        assert!(ContentType::new("TEXT/markdown").is_text());
        assert!(!ContentType::new("tex").is_text());
    }

    #[test]
    fn debug_output_never_shows_content() {
        let shown = format!("{:?}", Payload::text("a planted secret"));
        assert_eq!(shown, "text/plain; charset=utf-8 (16 bytes)");
    }
}
