//! Bytes to frames and back, without I/O.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

use super::Frame;

/// The largest value of the length field.
pub const FRAME_MAX: usize = 1024 * 1024;
/// The largest header, the most its length field can say.
pub const HEADER_MAX: usize = u16::MAX as usize;
/// The most payload to put into one frame, so that a header always fits beside
/// it and a long payload leaves room for other calls in between.
pub const PAYLOAD_PER_FRAME: usize = 256 * 1024;

const LENGTH: usize = 4;
/// Type and header length.
const FIXED: usize = 3;

/// Why bytes are not a frame, or a frame cannot be bytes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The length field is above [`FRAME_MAX`].
    #[error("a frame of {length} bytes is longer than {FRAME_MAX}")]
    TooLong {
        /// What the length field says.
        length: usize,
    },
    /// The length field does not leave room for what must follow.
    #[error("a frame of {length} bytes cannot hold its header")]
    TooShort {
        /// What the length field says.
        length: usize,
    },
    /// The type is not one of this protocol's.
    #[error("unknown frame type {found}")]
    UnknownType {
        /// The type byte.
        found: u8,
    },
    /// The header is not the JSON object that the type asks for.
    #[error("the header of a {frame} frame is malformed: {message}")]
    Header {
        /// The frame's name.
        frame: &'static str,
        /// What the JSON parser found.
        message: String,
    },
    /// A header is longer than its length field can say.
    #[error("a header of {length} bytes is longer than {HEADER_MAX}")]
    HeaderTooLong {
        /// Its length.
        length: usize,
    },
    /// A frame type without payload came with one.
    #[error("a {frame} frame carries no payload, but {length} bytes follow its header")]
    UnexpectedPayload {
        /// The frame's name.
        frame: &'static str,
        /// How many bytes follow.
        length: usize,
    },
}

impl FrameError {
    /// A stable name of the broken rule, for [`crate::CallError::Protocol`].
    pub const fn rule(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "frame_too_long",
            Self::TooShort { .. } => "frame_too_short",
            Self::UnknownType { .. } => "unknown_frame",
            Self::Header { .. } => "malformed_header",
            Self::HeaderTooLong { .. } => "header_too_long",
            Self::UnexpectedPayload { .. } => "unexpected_payload",
        }
    }
}

/// Turns bytes, in pieces of any size, into frames.
///
/// Holds at most one frame more than it has given out, so its memory is
/// bounded by [`FRAME_MAX`] and the size of the pieces. After an error the
/// stream cannot be trusted and the connection must end.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: BytesMut,
}

impl FrameDecoder {
    /// Starts with nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The buffer to read into; append to it, then call [`Self::next`].
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Adds bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// How many bytes wait for the rest of their frame. Not zero at the end of
    /// a stream means that the stream ended in the middle of a frame.
    pub fn pending(&self) -> usize {
        self.buffer.len()
    }

    /// The next whole frame, or `None` when more bytes are needed.
    ///
    /// # Errors
    ///
    /// As soon as the length field is out of bounds, before the frame is
    /// buffered; otherwise when the frame is whole and not understood.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator could not say that more bytes are needed"
    )]
    pub fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(prefix) = self.buffer.first_chunk::<LENGTH>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*prefix) as usize;
        if length > FRAME_MAX {
            return Err(FrameError::TooLong { length });
        }
        if length < FIXED {
            return Err(FrameError::TooShort { length });
        }
        if self.buffer.len() < LENGTH + length {
            self.buffer.reserve(LENGTH + length - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(LENGTH);
        let mut body = self.buffer.split_to(length).freeze();
        let kind = body.get_u8();
        let header_length = usize::from(body.get_u16());
        if header_length > body.len() {
            return Err(FrameError::TooShort { length });
        }
        let header = body.split_to(header_length);
        Frame::decode(kind, &header, body).map(Some)
    }
}

macro_rules! frame_types {
    (plain { $($plain:ident = $plain_type:literal),+ $(,)? } payload { $($loaded:ident = $loaded_type:literal),+ $(,)? }) => {
        impl Frame {
            /// The frame's name, as errors and logs write it.
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Self::$plain(_) => stringify!($plain),)+
                    $(Self::$loaded(..) => stringify!($loaded),)+
                }
            }

            /// Appends the frame's bytes to `out`.
            ///
            /// # Errors
            ///
            /// When header or payload are too long; `out` is unchanged then.
            pub fn encode(&self, out: &mut BytesMut) -> Result<(), FrameError> {
                match self {
                    $(Self::$plain(header) => encode($plain_type, stringify!($plain), header, &[], out),)+
                    $(Self::$loaded(header, payload) => encode($loaded_type, stringify!($loaded), header, payload, out),)+
                }
            }

            fn decode(kind: u8, header: &[u8], payload: Bytes) -> Result<Self, FrameError> {
                match kind {
                    $($plain_type => {
                        if !payload.is_empty() {
                            let (frame, length) = (stringify!($plain), payload.len());
                            return Err(FrameError::UnexpectedPayload { frame, length });
                        }
                        Ok(Self::$plain(parse(stringify!($plain), header)?))
                    })+
                    $($loaded_type => Ok(Self::$loaded(parse(stringify!($loaded), header)?, payload)),)+
                    found => Err(FrameError::UnknownType { found }),
                }
            }
        }
    };
}

frame_types! {
    plain {
        Hello = 1,
        Welcome = 2,
        Credit = 3,
        Accepted = 5,
        Progress = 6,
        Log = 7,
        Cancel = 9,
        Drain = 10,
        Reconcile = 11,
        HostCall = 12,
        HostResult = 13,
        HealthCheck = 20,
        Health = 21,
        GetState = 15,
    }
    payload {
        Call = 4,
        Result = 8,
        Chunk = 14,
        RestoreState = 16,
    }
}

fn parse<T: DeserializeOwned>(frame: &'static str, header: &[u8]) -> Result<T, FrameError> {
    serde_json::from_slice(header).map_err(|error| FrameError::Header {
        frame,
        message: error.to_string(),
    })
}

fn encode<T: Serialize>(
    kind: u8,
    frame: &'static str,
    header: &T,
    payload: &[u8],
    out: &mut BytesMut,
) -> Result<(), FrameError> {
    let start = out.len();
    // The two lengths are filled in once the header's is known.
    out.put_bytes(0, LENGTH);
    out.put_u8(kind);
    out.put_u16(0);
    let header_start = out.len();
    if let Err(error) = serde_json::to_writer(out.writer(), header) {
        out.truncate(start);
        let message = error.to_string();
        return Err(FrameError::Header { frame, message });
    }
    let header_length = out.len() - header_start;
    let length = FIXED + header_length + payload.len();
    let fits = u16::try_from(header_length)
        .ok()
        .filter(|_| length <= FRAME_MAX);
    let Some(header_field) = fits else {
        out.truncate(start);
        return Err(match header_length > HEADER_MAX {
            true => FrameError::HeaderTooLong {
                length: header_length,
            },
            false => FrameError::TooLong { length },
        });
    };
    out.extend_from_slice(payload);
    // `length` is at most FRAME_MAX, so the cast cannot cut it.
    out[start..start + LENGTH].copy_from_slice(&(length as u32).to_be_bytes());
    out[header_start - 2..header_start].copy_from_slice(&header_field.to_be_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::{Chunk, Credit, Log};

    fn log(message: String) -> Frame {
        Frame::Log(Log {
            call: None,
            level: crate::LogLevel::Info,
            message,
        })
    }

    fn any_frame() -> impl Strategy<Value = Frame> {
        prop_oneof![
            any::<u32>().prop_map(|calls| Frame::Credit(Credit { calls })),
            ".{0,40}".prop_map(log),
            (any::<u64>(), proptest::collection::vec(any::<u8>(), 0..300))
                .prop_map(|(call, bytes)| Frame::Chunk(Chunk { call }, bytes.into())),
        ]
    }

    proptest! {
        /// However the bytes are cut, the same frames come out.
        #[test]
        fn frames_survive_any_cut(
            frames in proptest::collection::vec(any_frame(), 1..8),
            cuts in proptest::collection::vec(1usize..50, 1..50),
        ) {
            let mut wire = BytesMut::new();
            for frame in &frames {
                frame.encode(&mut wire).unwrap();
            }
            let mut decoder = FrameDecoder::new();
            let mut seen = Vec::new();
            let mut cuts = cuts.into_iter().cycle();
            while !wire.is_empty() {
                let cut = cuts.next().unwrap().min(wire.len());
                decoder.push(&wire.split_to(cut));
                while let Some(frame) = decoder.next().unwrap() {
                    seen.push(frame);
                }
            }
            prop_assert_eq!(seen, frames);
            prop_assert_eq!(decoder.pending(), 0);
        }

        /// Hostile bytes give an error or wait for more; they never panic and
        /// never make the decoder hold more than it was given.
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut decoder = FrameDecoder::new();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next() {}
            prop_assert!(decoder.pending() <= bytes.len());
        }
    }

    fn error_of(bytes: &[u8]) -> FrameError {
        let mut decoder = FrameDecoder::new();
        decoder.push(bytes);
        decoder.next().unwrap_err()
    }

    #[test]
    fn each_fault_has_its_own_rule() {
        let length = FRAME_MAX as u32 + 1;
        assert_eq!(error_of(&length.to_be_bytes()).rule(), "frame_too_long");
        assert_eq!(error_of(&[0, 0, 0, 2]).rule(), "frame_too_short");
        assert_eq!(error_of(&[0, 0, 0, 3, 3, 0, 9]).rule(), "frame_too_short");
        assert_eq!(
            error_of(&[0, 0, 0, 5, 99, 0, 2, b'{', b'}']).rule(),
            "unknown_frame"
        );
        assert_eq!(
            error_of(&[0, 0, 0, 5, 3, 0, 2, b'{', b'}']).rule(),
            "malformed_header"
        );
        let with_payload = [b"\0\0\0\x10\x03\0\x0b{\"calls\":1}".as_slice(), b"xx"].concat();
        assert_eq!(error_of(&with_payload).rule(), "unexpected_payload");
    }

    #[test]
    fn a_frame_that_does_not_fit_leaves_the_buffer_alone() {
        let mut out = BytesMut::from(&b"before"[..]);
        let long = Frame::Chunk(Chunk { call: 1 }, vec![0; FRAME_MAX].into());
        assert_eq!(long.encode(&mut out).unwrap_err().rule(), "frame_too_long");
        let wide = log("x".repeat(HEADER_MAX));
        assert_eq!(wide.encode(&mut out).unwrap_err().rule(), "header_too_long");
        assert_eq!(&out[..], b"before");
    }
}
