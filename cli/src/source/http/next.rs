//! Which way of a server's is taken.

use ureq::http::{HeaderValue, Uri, uri::Scheme};

use crate::source::SourceError;

/// Whether a URL may be asked at all. Says why not.
pub(super) fn check(url: &Uri) -> Result<(), &'static str> {
    let scheme = url.scheme();
    if scheme != Some(&Scheme::HTTP) && scheme != Some(&Scheme::HTTPS) {
        return Err("only http and https are spoken");
    }
    match url.authority() {
        None => Err("it names no host"),
        Some(authority) if authority.host().is_empty() => Err("it names no host"),
        Some(authority) if authority.as_str().contains('@') => {
            Err("it has a user name or password, which would be written down")
        }
        Some(_) => Ok(()),
    }
}

/// A URL as it may be said and written down: what it asks with may be a secret, such
/// as a token or the signature of somebody who may read the file.
pub(super) fn shown(url: &Uri) -> String {
    let text = url.to_string();
    text.split('?').next().unwrap_or_default().to_owned()
}

/// The same of what may be none.
pub(super) fn shown_text(text: &str) -> String {
    let text = text.split('?').next().unwrap_or_default();
    text.rsplit('@').next().unwrap_or_default().to_owned()
}

/// Where `location` leads from `url`.
pub(super) fn next(url: &Uri, location: Option<&HeaderValue>) -> Result<Uri, SourceError> {
    let target = location.and_then(|location| location.to_str().ok());
    let target = target.unwrap_or_default();
    let refused = |reason| SourceError::Redirect {
        url: shown(url),
        target: shown_text(target),
        reason,
    };
    let text = match (target.starts_with("//"), target.starts_with('/')) {
        (true, _) => format!("{}:{target}", url.scheme_str().unwrap_or_default()),
        (false, true) => {
            let (scheme, authority) = (url.scheme_str(), url.authority());
            let authority = authority.map_or("", |authority| authority.as_str());
            format!("{}://{authority}{target}", scheme.unwrap_or_default())
        }
        (false, false) => target.to_owned(),
    };
    let next: Uri = text.parse().map_err(|_| refused("it is no URL"))?;
    check(&next).map_err(refused)?;
    if url.scheme() == Some(&Scheme::HTTPS) && next.scheme() != Some(&Scheme::HTTPS) {
        return Err(refused("from https nobody goes back to http"));
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(url: &str, location: &str) -> Result<String, String> {
        let location = HeaderValue::from_str(location).unwrap();
        match next(&url.parse().unwrap(), Some(&location)) {
            Ok(next) => Ok(next.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn ways_that_are_taken() {
        for (location, target) in [
            ("/b", "https://h:1/b"),
            ("//other/b?c", "https://other/b?c"),
            ("https://other/b", "https://other/b"),
        ] {
            assert_eq!(from("https://h:1/a", location).unwrap(), target);
        }
        assert_eq!(from("http://h/a", "https://h/a").unwrap(), "https://h/a");
        assert_eq!(from("http://h/a", "http://o/").unwrap(), "http://o/");
    }

    #[test]
    fn ways_that_are_not() {
        for (location, reason) in [
            ("http://h/b", "back to http"),
            ("HTTP://h/b", "back to http"),
            ("file:///etc/passwd", "no URL"),
            ("ftp://h/b", "only http and https"),
            ("https://me:secret@h/b", "user name"),
            ("", "no URL"),
            ("b", "only http and https"),
        ] {
            let refused = from("https://h/a", location).unwrap_err();
            assert!(refused.contains(reason), "{location}: {refused}");
            assert!(!refused.contains("secret"), "{refused}");
        }
        let refused = from("https://h/a?key=secret", "http://h/b?key=secret").unwrap_err();
        assert!(!refused.contains("secret"), "{refused}");
        assert!(next(&"https://h/".parse().unwrap(), None).is_err());
    }
}
