//! The side of the proxy that speaks HTTP: `CONNECT`, and requests for `http:` URLs.

use orchestrator_manifest::Target;

use super::{
    refusal::Refusal,
    request::{Request, Route},
};

/// How many headers a request may have.
const HEADERS_MAX: usize = 100;
const HTTP_PORT: u16 = 80;

/// Headers that are between a client and its proxy, and end there. What says where the
/// body ends goes on, since the body does.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "upgrade",
];

/// Where a head that begins at the start of `bytes` ends, when nothing before `searched`
/// was its end.
pub(super) fn end_of_head(bytes: &[u8], searched: usize) -> Option<usize> {
    let from = searched.saturating_sub(3);
    let lines = bytes.get(from..)?;
    let end = lines.iter().enumerate().find(|(at, byte)| {
        let rest = &lines[at + 1..];
        **byte == b'\n' && (rest.starts_with(b"\n") || rest.starts_with(b"\r\n"))
    });
    end.map(|(at, _)| {
        let blank = if lines[at + 1] == b'\n' { 1 } else { 2 };
        from + at + 1 + blank
    })
}

/// Reads a head, with the empty line at its end.
pub(super) fn parse(head: &[u8]) -> Result<Request, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::TooLarge),
        Ok(httparse::Status::Partial) | Err(_) => {
            return Err(Refusal::Malformed("this is no HTTP request"));
        }
    }
    let (Some(method), Some(path)) = (request.method, request.path) else {
        return Err(Refusal::Malformed("this is no HTTP request"));
    };
    if method == "CONNECT" {
        let target = Target::parse(path, None).ok_or_else(|| Refusal::no_target(path))?;
        return Ok(Request {
            target,
            route: Route::Connect,
        });
    }
    let url = AbsoluteUrl::parse(path)?;
    let target = Target::parse(url.authority, Some(HTTP_PORT))
        .ok_or_else(|| Refusal::no_target(url.authority))?;
    let head = rewritten(method, &url, request.headers);
    Ok(Request {
        target,
        route: Route::Forward { head },
    })
}

struct AbsoluteUrl<'a> {
    /// As it was written, which is what the server is told.
    authority: &'a str,
    path: &'a str,
}

impl<'a> AbsoluteUrl<'a> {
    fn parse(text: &'a str) -> Result<Self, Refusal> {
        const SCHEME: &str = "http://";
        let is_http = text
            .get(..SCHEME.len())
            .is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME));
        if !is_http {
            return Err(Refusal::Malformed(
                "this is a proxy: it takes CONNECT, and requests for whole http: URLs",
            ));
        }
        let rest = &text[SCHEME.len()..];
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if path.contains('#') {
            return Err(Refusal::Malformed("a URL in a request has no fragment"));
        }
        Ok(Self { authority, path })
    }
}

/// The head as the server gets it. The connection ends with the answer: a further request
/// on it may be for another host, and is to be asked for anew.
fn rewritten(method: &str, url: &AbsoluteUrl<'_>, headers: &[httparse::Header<'_>]) -> Vec<u8> {
    let nominated: Vec<&str> = headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case("connection"))
        .filter_map(|header| str::from_utf8(header.value).ok())
        .flat_map(|value| value.split(',').map(str::trim))
        .filter(|name| !is_of_the_body(name))
        .collect();
    let slash = if url.path.starts_with('/') { "" } else { "/" };
    let (path, authority) = (url.path, url.authority);
    let mut head =
        format!("{method} {slash}{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n")
            .into_bytes();
    for header in headers {
        let is = |name: &&str| header.name.eq_ignore_ascii_case(name);
        if HOP_BY_HOP.iter().any(is) || nominated.iter().any(is) {
            continue;
        }
        head.extend_from_slice(header.name.as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(header.value);
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

fn is_of_the_body(name: &str) -> bool {
    ["content-length", "transfer-encoding"]
        .iter()
        .any(|of_the_body| name.eq_ignore_ascii_case(of_the_body))
}

/// What is said when a connection stands.
pub(super) const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// What is said instead of a connection.
pub(super) fn refused(refusal: &Refusal) -> Vec<u8> {
    let (status, phrase) = refusal.status();
    let text = format!("{refusal}\n");
    let length = text.len();
    format!(
        "HTTP/1.1 {status} {phrase}\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{text}"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarded(head: &str) -> (String, String) {
        let request = parse(head.as_bytes()).expect("a request");
        let Route::Forward { head } = request.route else {
            panic!("not forwarded");
        };
        let head = String::from_utf8(head).expect("text");
        (request.target.to_string(), head)
    }

    #[test]
    fn connect_names_a_target() {
        let request = parse(b"CONNECT Example.com:443 HTTP/1.1\r\nHost: other\r\n\r\n");
        let request = request.expect("a request");
        assert_eq!(request.target.to_string(), "example.com:443");
        assert!(matches!(request.route, Route::Connect));
    }

    #[test]
    fn a_url_becomes_a_path_for_that_host_alone() {
        let (target, head) = forwarded(
            "GET http://a.example:81/x?y=1 HTTP/1.1\r\nHost: b.example\r\nCookie: c\r\n\
             Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\n\
             Connection: keep-alive, X-Hop, Content-Length\r\nX-Hop: 1\r\nContent-Length: 3\r\n\r\n",
        );
        assert_eq!(target, "a.example:81");
        assert_eq!(
            head,
            "GET /x?y=1 HTTP/1.1\r\nHost: a.example:81\r\nConnection: close\r\nCookie: c\r\n\
             Content-Length: 3\r\n\r\n"
        );
        for (url, path) in [
            ("http://a.example", "/"),
            ("http://a.example/", "/"),
            ("http://a.example?q", "/?q"),
            ("HTTP://a.example/p", "/p"),
        ] {
            let (target, head) = forwarded(&format!("GET {url} HTTP/1.1\r\n\r\n"));
            assert_eq!(target, "a.example:80");
            assert!(
                head.starts_with(&format!("GET {path} HTTP/1.1\r\n")),
                "{head}"
            );
        }
    }

    #[test]
    fn what_is_no_request_to_a_proxy_is_refused() {
        for head in [
            "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "GET https://a.example/ HTTP/1.1\r\n\r\n",
            "GET http://u:p@a.example/ HTTP/1.1\r\n\r\n",
            "GET http:///path HTTP/1.1\r\n\r\n",
            "GET http://a.example:0/ HTTP/1.1\r\n\r\n",
            "GET http://a.example/#f HTTP/1.1\r\n\r\n",
            "CONNECT a.example HTTP/1.1\r\n\r\n",
            "CONNECT a.example:443/ HTTP/1.1\r\n\r\n",
            "CONNECT http://a.example:443 HTTP/1.1\r\n\r\n",
            "CONNECT u@a.example:443 HTTP/1.1\r\n\r\n",
            "CONNECT a.example:443\r\n\r\n",
            "CONNECT a.example:443 HTTP/1.1 x\r\n\r\n",
            "CONNECT a.example:443 HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
            "CONNECT a.example:443 HTTP/1.1\r\nA: b\rHost: c\r\n\r\n",
            "\u{1}\u{2}\r\n\r\n",
        ] {
            assert!(parse(head.as_bytes()).is_err(), "{head:?}");
        }
        let many = "A: b\r\n".repeat(HEADERS_MAX + 1);
        let many = format!("CONNECT a.example:443 HTTP/1.1\r\n{many}\r\n");
        assert!(matches!(parse(many.as_bytes()), Err(Refusal::TooLarge)));
    }

    #[test]
    fn the_end_of_a_head_is_found_wherever_the_pieces_end() {
        for text in ["a\r\nb\r\n\r\nrest", "a\nb\n\nrest", "a\r\nb\n\r\nrest"] {
            let bytes = text.as_bytes();
            let end = text.len() - "rest".len();
            for piece in 0..bytes.len() {
                let before = end_of_head(&bytes[..piece], 0);
                assert_eq!(before, (piece >= end).then_some(end), "{text:?} {piece}");
                if before.is_none() {
                    assert_eq!(end_of_head(bytes, piece), Some(end), "{text:?} {piece}");
                }
            }
        }
    }
}
