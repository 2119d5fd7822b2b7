//! Trace context as [W3C Trace Context](https://www.w3.org/TR/trace-context/)
//! level 1 writes it.

use std::{fmt, str::FromStr};

use thiserror::Error;

/// Identifies a trace; never all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 16]);

/// Identifies a span within a trace; never all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId([u8; 8]);

/// Where a call stands in a trace. Sixteen plus eight bytes and a flag, so it
/// is copied, not shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// The trace, one per run.
    pub trace_id: TraceId,
    /// The span that the receiver's spans are children of.
    pub span_id: SpanId,
    /// Whether the trace is recorded.
    pub sampled: bool,
}

/// The text is not a `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a traceparent of the form 00-<32 hex>-<16 hex>-<2 hex>")]
pub struct TraceContextError;

impl TraceContext {
    /// Starts a trace from randomness. Zero is not a legal id, so it becomes 1.
    pub fn from_random(trace: u128, span: u64, sampled: bool) -> Self {
        Self {
            trace_id: TraceId(trace.max(1).to_be_bytes()),
            span_id: SpanId(span.max(1).to_be_bytes()),
            sampled,
        }
    }

    /// The same trace, seen from the child span `span`.
    #[must_use]
    pub fn child(self, span: u64) -> Self {
        Self {
            span_id: SpanId(span.max(1).to_be_bytes()),
            ..self
        }
    }
}

impl fmt::Display for TraceContext {
    /// Writes the `traceparent` header value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.sampled);
        write!(f, "00-{}-{}-{flags:02x}", self.trace_id, self.span_id)
    }
}

impl FromStr for TraceContext {
    type Err = TraceContextError;

    /// Reads a `traceparent` header value, also of a later version, whose
    /// additional fields are ignored as §4.3 of the specification asks.
    fn from_str(text: &str) -> Result<Self, TraceContextError> {
        let mut parts = text.split('-');
        let mut field = |length: usize| {
            parts
                .next()
                .filter(|part| part.len() == length && is_lower_hex(part))
                .ok_or(TraceContextError)
        };
        let version = field(2)?;
        let trace_id = u128::from_str_radix(field(32)?, 16).map_err(|_| TraceContextError)?;
        let span_id = u64::from_str_radix(field(16)?, 16).map_err(|_| TraceContextError)?;
        let flags = u8::from_str_radix(field(2)?, 16).map_err(|_| TraceContextError)?;
        let surplus = parts.next().is_some();
        if version == "ff" || (version == "00" && surplus) || trace_id == 0 || span_id == 0 {
            return Err(TraceContextError);
        }
        Ok(Self::from_random(trace_id, span_id, flags & 1 == 1))
    }
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Travels as the `traceparent` text.
impl serde::Serialize for TraceContext {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for TraceContext {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn the_specifications_example_round_trips() {
        let context: TraceContext = EXAMPLE.parse().unwrap();
        assert!(context.sampled);
        assert_eq!(context.to_string(), EXAMPLE);
        assert_eq!(context.child(7).span_id.to_string(), "0000000000000007");
        assert_eq!(context.child(7).trace_id, context.trace_id);
    }

    #[test]
    fn malformed_headers_are_refused() {
        let cases = [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-extra",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ];
        for case in cases {
            assert_eq!(
                case.parse::<TraceContext>(),
                Err(TraceContextError),
                "{case}"
            );
        }
    }

    #[test]
    fn a_later_version_may_carry_more_fields() {
        let later = "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-more";
        assert!(!later.parse::<TraceContext>().unwrap().sampled);
    }
}
