//! JSON pointers (RFC 6901): the place of a value in a document.

/// One step of a pointer, escaped.
pub(crate) fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// The pointer to `key` beneath `parent`.
pub(crate) fn child(parent: &str, key: &str) -> String {
    format!("{parent}/{}", escape(key))
}
