//! A package in an archive on a web server.
//!
//! The bytes go to a file named after the URL, so an interrupted download is
//! continued by the next one. No `ETag` is asked for: pieces of different files
//! make a damaged archive, which is noticed, and the download starts over once.

mod next;
mod part;

use std::{
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    thread,
    time::Duration,
};

use rustls::CertificateError;
use ureq::{
    Agent, Body,
    http::{Response, StatusCode, Uri, header},
    tls::{RootCerts, TlsConfig},
};

use self::{
    next::{next, shown, shown_text},
    part::Part,
};
use super::{Fetched, Order, Source, SourceError, archive::fetched};
use crate::{failure::Result, output::harmless, progress::Transfer};

/// Servers to be sent on to.
const HOPS_MAX: usize = 5;
/// Connections to try; each continues where the last one broke off.
const ATTEMPTS: u32 = 4;
/// Before the second attempt; twice as long before each further one.
const PAUSE: Duration = Duration::from_millis(250);
const CONNECT: Duration = Duration::from_secs(10);
/// How long a server may be silent.
const SILENCE: Duration = Duration::from_secs(30);
const TOTAL: Duration = Duration::from_secs(30 * 60);
pub(super) struct Http {
    url: Uri,
}

/// Why an attempt came to nothing.
enum Broken {
    /// Another attempt may do better.
    Again(String),
    Final(SourceError),
}

impl Http {
    /// The source that `text` means; `None` for what is no URL.
    pub(super) fn parse(text: &str) -> Result<Option<Self>> {
        let scheme = text.split_once("://").map(|(scheme, _)| scheme);
        let is_http = scheme.is_some_and(|scheme| {
            scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")
        });
        if !is_http {
            return Ok(None);
        }
        let refused = |reason| SourceError::Url {
            // Whatever it is, it may have a password in it.
            url: shown_text(text),
            reason,
        };
        let url: Uri = text.parse().map_err(|_| refused("it is no URL"))?;
        next::check(&url).map_err(refused)?;
        Ok(Some(Self { url }))
    }

    fn download(&self, part: &mut Part, order: &Order) -> Result {
        let agent = agent();
        let progress = Transfer::new(order.out, &self.location());
        let max = order.limits.archive_bytes();
        let mut reason = String::new();
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                pause(PAUSE * (1 << (attempt - 1)));
            }
            match self.attempt(&agent, part, max, &progress) {
                Ok(()) => return Ok(()),
                Err(Broken::Final(error)) => return Err(error.into()),
                Err(Broken::Again(why)) => reason = why,
            }
            if attempt + 1 < ATTEMPTS {
                let why = harmless(&reason);
                order.out.note(&format!("{why}; asking again"));
            }
        }
        let url = self.location();
        Err(SourceError::Interrupted { url, reason }.into())
    }

    /// Follows the server to the file, and gets what is missing of it.
    fn attempt(
        &self,
        agent: &Agent,
        part: &mut Part,
        max: u64,
        progress: &Transfer,
    ) -> std::result::Result<(), Broken> {
        let mut url = self.url.clone();
        for _ in 0..=HOPS_MAX {
            let have = part.len()?;
            let mut request = agent.get(&url);
            if have > 0 {
                request = request.header(header::RANGE, format!("bytes={have}-"));
            }
            let response = request.call().map_err(|error| failed(&url, error))?;
            match response.status() {
                StatusCode::OK => return receive(response, part, 0, max, progress),
                StatusCode::PARTIAL_CONTENT if start_of(&response) == Some(have) => {
                    part.is_pieced = true;
                    return receive(response, part, have, max, progress);
                }
                // What is there fits no longer; from the start, then.
                StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if have > 0 => {
                    part.clear()?;
                }
                status if status.is_redirection() => {
                    url = next(&url, response.headers().get(header::LOCATION))
                        .map_err(Broken::Final)?;
                }
                status => return Err(refused(&url, status)),
            }
        }
        Err(Broken::Final(SourceError::Redirect {
            url: self.location(),
            target: shown(&url),
            reason: "there are too many redirects",
        }))
    }
}

impl Source for Http {
    fn location(&self) -> String {
        shown(&self.url)
    }

    fn gives_the_same_again(&self) -> bool {
        self.url.query().is_none()
    }

    fn fetch(&self, order: &Order) -> Result<Fetched> {
        let url = self.location();
        if self.url.query().is_some() {
            order.out.note(
                "what follows `?` in the URL may be a secret and is not written down: \
                 updates ask without it",
            );
        }
        let mut part = Part::open(&order.downloads, &self.url)?;
        if part.is_private {
            order.out.note(&format!(
                "another process is downloading {url}; this one starts from nothing"
            ));
        }
        if let Err(failure) = self.download(&mut part, order) {
            part.remove_empty();
            return Err(failure);
        }
        let mut outcome = fetched(part.reader()?, &url, order);
        if part.is_pieced && outcome.is_err() {
            part.clear()?;
            self.download(&mut part, order)?;
            outcome = fetched(part.reader()?, &url, order);
        }
        // Whole, whatever it is worth: there is nothing left to continue.
        part.remove();
        outcome
    }
}

/// Writes what the server sends behind the first `start` bytes.
fn receive(
    response: Response<Body>,
    part: &mut Part,
    start: u64,
    max: u64,
    progress: &Transfer,
) -> std::result::Result<(), Broken> {
    let length = response.body().content_length();
    let total = length.map(|length| length.saturating_add(start));
    let too_large = |part: &Part| {
        Broken::Final(SourceError::TooLarge {
            url: part.url().to_owned(),
            max,
        })
    };
    if total.is_some_and(|total| total > max) {
        return Err(too_large(part));
    }
    part.file
        .set_len(start)
        .map_err(|error| part.error(error))?;
    let sought = part.file.seek(SeekFrom::Start(start));
    sought.map_err(|error| part.error(error))?;
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; 64 * 1024];
    let mut have = start;
    loop {
        progress.at(have, total);
        let read = body
            .read(&mut buffer)
            .map_err(|error| Broken::Again(error.to_string()))?;
        if read == 0 {
            break;
        }
        have += read as u64;
        if have > max {
            part.clear()?;
            return Err(too_large(part));
        }
        let written = part.file.write_all(&buffer[..read]);
        written.map_err(|error| part.error(error))?;
    }
    match total {
        Some(total) if have < total => Err(Broken::Again(format!(
            "it ended after {have} of {total} bytes"
        ))),
        _ => Ok(()),
    }
}

/// A broken connection may be whole the next time; a certificate will not.
fn failed(url: &Uri, error: ureq::Error) -> Broken {
    let tls = match &error {
        ureq::Error::Io(error) => error.get_ref().and_then(|inner| inner.downcast_ref()),
        ureq::Error::Rustls(error) => Some(error),
        _ => None,
    };
    match tls {
        Some(rustls::Error::InvalidCertificate(reason)) => {
            Broken::Final(SourceError::Certificate {
                url: shown(url),
                reason: certificate_fault(reason),
            })
        }
        _ => Broken::Again(error.to_string()),
    }
}

/// Where the library has no words for it, it says its own names.
fn certificate_fault(fault: &CertificateError) -> String {
    match fault {
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "it shows the certificate of an authority, which is none of a server".to_owned()
        }
        CertificateError::Other(other) => other.0.to_string(),
        fault => fault.to_string(),
    }
}

fn refused(url: &Uri, status: StatusCode) -> Broken {
    let is_passing = matches!(status.as_u16(), 429 | 502 | 503 | 504);
    match is_passing {
        true => Broken::Again(format!("the server answers with status {status}")),
        false => Broken::Final(SourceError::Status {
            url: shown(url),
            status: status.as_u16(),
        }),
    }
}

/// Where a partial answer begins, as its `Content-Range` says.
fn start_of(response: &Response<Body>) -> Option<u64> {
    let range = response.headers().get(header::CONTENT_RANGE)?;
    let (start, _) = range
        .to_str()
        .ok()?
        .strip_prefix("bytes ")?
        .split_once('-')?;
    start.parse().ok()
}

fn agent() -> Agent {
    // An error says that there is a provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::PlatformVerifier)
        .build();
    Agent::config_builder()
        .user_agent(concat!("orchestrator/", env!("CARGO_PKG_VERSION")))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_global(Some(TOTAL))
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(SILENCE))
        .timeout_per_read(Some(SILENCE))
        .tls_config(tls)
        .build()
        .new_agent()
}

#[expect(
    clippy::disallowed_methods,
    reason = "a download blocks; nothing else runs on this thread"
)]
fn pause(time: Duration) {
    thread::sleep(time);
}
