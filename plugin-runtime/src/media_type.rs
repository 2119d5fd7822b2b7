//! Whether a text is a media type.

/// The longest media type that is taken; names are at most 127 bytes each
/// ([RFC 6838 §4.2](https://www.rfc-editor.org/rfc/rfc6838#section-4.2)).
const BYTES_MAX: usize = 300;
/// Optional white space.
const SPACE: [char; 2] = [' ', '\t'];

/// Whether `text` is a media type after
/// [RFC 9110 §8.3.1](https://www.rfc-editor.org/rfc/rfc9110#section-8.3.1), in ASCII and
/// not longer than a header field wants to be. What comes from a plugin goes into
/// headers, environments and lines of others.
pub(crate) fn is_media_type(text: &str) -> bool {
    let (essence, mut rest) = text.split_at(text.find(';').unwrap_or(text.len()));
    let essence = match rest.is_empty() {
        true => essence,
        false => essence.trim_end_matches(SPACE),
    };
    let named = essence
        .split_once('/')
        .is_some_and(|(kind, subtype)| is_token(kind) && is_token(subtype));
    if !named || text.len() > BYTES_MAX {
        return false;
    }
    while let Some(parameter) = rest.strip_prefix(';') {
        rest = parameter.trim_start_matches(SPACE);
        // A semicolon may stand alone.
        if rest.is_empty() || rest.starts_with(';') {
            continue;
        }
        let Some((name, value)) = rest.split_once('=') else {
            return false;
        };
        let Some(after) = after_value(value).filter(|_| is_token(name)) else {
            return false;
        };
        rest = after.trim_start_matches(SPACE);
    }
    rest.is_empty()
}

/// What follows the token or the quoted string that `text` begins with.
fn after_value(text: &str) -> Option<&str> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|letter| !is_token_letter(letter));
        let (token, after) = text.split_at(end.unwrap_or(text.len()));
        return (!token.is_empty()).then_some(after);
    };
    let mut letters = quoted.chars();
    loop {
        match letters.next()? {
            '"' => return Some(letters.as_str()),
            '\\' => is_shown(letters.next()?).then_some(())?,
            letter => is_shown(letter).then_some(())?,
        }
    }
}

fn is_shown(letter: char) -> bool {
    matches!(letter, '\t' | ' '..='~')
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_token_letter)
}

fn is_token_letter(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_are_told_from_other_text() {
        for good in [
            "application/json",
            "text/plain; charset=utf-8",
            "text/plain;charset=\"utf-8\"",
            "application/vnd.api+json",
            "multipart/form-data ; boundary=\"a \\\" b\"\t;;  x=1;",
        ] {
            assert!(is_media_type(good), "{good}");
        }
        let long = format!("text/{}", "x".repeat(BYTES_MAX));
        for bad in [
            "",
            "json",
            "/",
            "text/",
            "/plain",
            " text/plain",
            "text/plain ",
            "text/plain\r\nSet-Cookie: a=b",
            "text/plain; charset=utf-8\r\n",
            "text/plain; a=\"b\r\nc\"",
            "text/plain; a=\"b",
            "text/plain; a=\"b\\",
            "text/plain; a=",
            "text/plain; a",
            "text/plain; =b",
            "text/plain; a=b c",
            "text/pl\0in",
            "text/plain; a=\"\x1b[31m\"",
            "text/plaïn",
            "te xt/plain",
            "text/plain, text/html",
            &long,
        ] {
            assert!(!is_media_type(bad), "{bad:?}");
        }
    }
}
