//! JSON pointers (RFC 6901): the place of a value in a document.

/// One step of a pointer, escaped.
pub(crate) fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// The pointer to `key` beneath `parent`.
pub fn child(parent: &str, key: &str) -> String {
    format!("{parent}/{}", escape(key))
}

/// The keys of a pointer as they stand in the document, from the outermost.
pub fn keys(pointer: &str) -> impl Iterator<Item = String> {
    let steps = pointer.split('/').skip(1);
    steps.map(|step| step.replace("~1", "/").replace("~0", "~"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_are_escaped() {
        assert_eq!(child("/outputs", "a/b~c"), "/outputs/a~1b~0c");
    }

    #[test]
    fn the_keys_of_a_pointer_are_what_it_was_made_of() {
        let made_of = ["a/b~c", "", "~1", "0"];
        let pointer = made_of
            .iter()
            .fold(String::new(), |parent, key| child(&parent, key));
        assert_eq!(keys(&pointer).collect::<Vec<_>>(), made_of);
        assert_eq!(keys("").count(), 0);
    }
}
