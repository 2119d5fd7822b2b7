//! An HTTP client that lives with an unreliable server.
//!
//! `cargo run -p orchestrator-policies --example http_client` starts a server
//! on a free port of this machine that stumbles, hangs and goes down, and asks
//! it for pages. What the policies do is printed as it happens.

use std::{
    convert::Infallible,
    io::Write,
    net::SocketAddr,
    num::{NonZeroU32, NonZeroUsize},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Bytes,
    header::{HeaderValue, RETRY_AFTER},
    service::service_fn,
};
use hyper_util::{
    client::legacy::{Client, Error as ClientError, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use orchestrator_policies::{
    AttemptDeadline, Breaker, BreakerConfig, Bulkhead, BulkheadConfig, Classify, Listener, Outcome,
    Policies, PolicyEvent, Rate, RateLimitConfig, RateLimiter, Refusal, RefusalKind, Retry,
    RetryAdvice, RetryConfig, TotalDeadline,
};
use tokio::net::TcpListener;
use tower::{Layer, Service, ServiceExt};

type Get = Request<Full<Bytes>>;
type Page = Response<Bytes>;
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A longer answer is an error.
const PAGE_MAX: usize = 1 << 20;

/// What can go wrong. A policy needs a place for its refusal, no more.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("no connection or no answer")]
    Http(#[from] ClientError),
    #[error("the answer could not be read")]
    Body(#[source] Failure),
    #[error("the server answered {status}")]
    Status {
        status: StatusCode,
        after: Option<Duration>,
    },
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// What HTTP means to the policies: the one thing to write.
#[derive(Clone, Copy)]
struct Http;

impl Classify<Get, Page, Failed> for Http {
    fn refusal(&self, failed: &Failed) -> Option<RefusalKind> {
        match failed {
            Failed::Refused(refusal) => Some(refusal.kind()),
            _ => None,
        }
    }

    /// A page that is not there says nothing bad about the server. That there
    /// are too many calls, or that one took too long to come in, does, though
    /// it has a number among the caller's mistakes.
    fn outcome(&self, result: &Result<Page, Failed>) -> Outcome {
        match result {
            Ok(_) => Outcome::Success,
            Err(Failed::Status { status, .. }) if is_callers_mistake(*status) => Outcome::Ignore,
            Err(_) => Outcome::Failure,
        }
    }

    fn retry(&self, failed: &Failed) -> RetryAdvice {
        match failed {
            Failed::Http(error) if error.is_connect() => RetryAdvice::NotStarted { after: None },
            // Turned away before anything was done, until `after`.
            &Failed::Status {
                status: StatusCode::TOO_MANY_REQUESTS,
                after,
            } => RetryAdvice::NotStarted { after },
            Failed::Status { status, .. } if is_callers_mistake(*status) => RetryAdvice::Never,
            Failed::Status { after, .. } => RetryAdvice::IfIdempotent { after: *after },
            Failed::Http(_) | Failed::Body(_) | Failed::Refused(_) => {
                RetryAdvice::IfIdempotent { after: None }
            }
        }
    }

    fn idempotent(&self, request: &Get) -> bool {
        request.method().is_idempotent()
    }
}

/// Whether the same request would fail again, whenever it comes.
fn is_callers_mistake(status: StatusCode) -> bool {
    let passes = [
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::TOO_EARLY,
        StatusCode::TOO_MANY_REQUESTS,
    ];
    status.is_client_error() && !passes.contains(&status)
}

/// Asks for a page and reads all of it, so that the deadlines cover the body
/// too. What the caller cannot use becomes an error here, for the policies
/// look at nothing else when they ask whether to try again.
async fn fetch(client: Client<HttpConnector, Full<Bytes>>, request: Get) -> Result<Page, Failed> {
    let (head, body) = client.request(request).await?.into_parts();
    if !head.status.is_success() {
        let after = head.headers.get(RETRY_AFTER);
        let seconds = after.and_then(|after| after.to_str().ok()?.parse().ok());
        return Err(Failed::Status {
            status: head.status,
            after: seconds.map(Duration::from_secs),
        });
    }
    let body = Limited::new(body, PAGE_MAX).collect().await;
    let bytes = body.map_err(Failed::Body)?.to_bytes();
    Ok(Response::from_parts(head, bytes))
}

/// The client behind its policies, outermost first.
fn resilient(
    breaker: Breaker,
    listener: Arc<dyn Listener>,
) -> Result<impl Service<Get, Response = Page, Error = Failed> + Clone, Failure> {
    let limiter = RateLimiter::new(RateLimitConfig {
        overall: Some(Rate {
            calls: NonZeroU32::new(100).ok_or("no calls")?,
            per: Duration::from_secs(1),
            burst: None,
        }),
        ..RateLimitConfig::default()
    })?;
    let bulkhead = Bulkhead::new(BulkheadConfig {
        max_concurrent: NonZeroUsize::new(16).ok_or("no slots")?,
        ..BulkheadConfig::default()
    })?;
    let policies = Policies::with(Http)
        .per_call(TotalDeadline::new(Duration::from_secs(30)))
        .per_call(limiter)
        .retry(Retry::new(RetryConfig {
            base_delay: Duration::from_millis(20),
            ..RetryConfig::default()
        })?)
        .per_attempt(breaker)
        .per_attempt(bulkhead)
        .per_attempt(AttemptDeadline::new(Duration::from_millis(500)))
        .with_listener(listener);

    let client = Client::builder(TokioExecutor::new()).build_http();
    Ok(policies.layer(tower::service_fn(move |request| {
        fetch(client.clone(), request)
    })))
}

/// Answers on a free port as long as the runtime lives.
async fn serve() -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let asked = Arc::new(AtomicU32::new(0));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let asked = Arc::clone(&asked);
            let answer = service_fn(move |request| answer(request, Arc::clone(&asked)));
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), answer),
            );
        }
    });
    Ok(address)
}

/// `/stumble` fails once, `/hang` hangs once, `/busy` asks once to come back in
/// a second, `/down` always fails.
async fn answer(
    request: Request<hyper::body::Incoming>,
    asked: Arc<AtomicU32>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let is_first = || asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
    let status = match path.as_str() {
        "/down" => StatusCode::SERVICE_UNAVAILABLE,
        "/missing" => StatusCode::NOT_FOUND,
        "/busy" if is_first() => StatusCode::TOO_MANY_REQUESTS,
        "/stumble" if is_first() => StatusCode::SERVICE_UNAVAILABLE,
        "/hang" if is_first() => std::future::pending().await,
        _ => StatusCode::OK,
    };
    let mut response = Response::new(Full::from(format!("{} {path}\n", request.method())));
    *response.status_mut() = status;
    if status == StatusCode::TOO_MANY_REQUESTS {
        let second = HeaderValue::from_static("1");
        response.headers_mut().insert(RETRY_AFTER, second);
    }
    Ok(response)
}

/// Asks for each of `pages`, one after the other.
async fn visit(
    pages: &[(Method, &str)],
    listener: Arc<dyn Listener>,
) -> Result<Vec<Result<Bytes, Failed>>, Failure> {
    let address = serve().await?;
    let client = resilient(
        Breaker::with_listener(BreakerConfig::default(), Arc::clone(&listener))?,
        listener,
    )?;
    let mut answers = Vec::with_capacity(pages.len());
    for (method, path) in pages {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{address}{path}"))
            .body(Full::default())?;
        let page = client.clone().oneshot(request).await;
        answers.push(page.map(Response::into_body));
    }
    Ok(answers)
}

const PAGES: [(Method, &str); 9] = [
    (Method::GET, "/"),
    (Method::GET, "/stumble"),
    (Method::GET, "/hang"),
    (Method::GET, "/missing"),
    (Method::POST, "/busy"),
    (Method::POST, "/stumble"),
    (Method::GET, "/down"),
    (Method::GET, "/down"),
    (Method::GET, "/down"),
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let listener = |event: &PolicyEvent| {
        let _ = writeln!(std::io::stdout(), "    {event:?}");
    };
    let answers = visit(&PAGES, Arc::new(listener)).await?;
    for ((method, path), answer) in PAGES.into_iter().zip(answers) {
        let answer = answer.map_err(|failed| failed.to_string());
        writeln!(std::io::stdout(), "{method} {path}: {answer:?}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_client_lives_with_a_server_that_stumbles_hangs_and_goes_down() {
        let retries = Arc::new(AtomicU32::new(0));
        let heard = Arc::clone(&retries);
        let listener = move |event: &PolicyEvent| {
            if matches!(event, PolicyEvent::RetryScheduled { .. }) {
                heard.fetch_add(1, Ordering::Relaxed);
            }
        };

        let begin = tokio::time::Instant::now();
        let answers = visit(&PAGES, Arc::new(listener)).await.unwrap();
        let took = begin.elapsed();
        let answers = answers.iter().map(|answer| match answer {
            Ok(page) => String::from_utf8_lossy(page).trim().to_owned(),
            Err(Failed::Status { status, .. }) => status.as_str().to_owned(),
            Err(Failed::Refused(refusal)) => refusal.kind().as_str().to_owned(),
            Err(other) => panic!("{other}"),
        });

        let expected = [
            "GET /",
            "GET /stumble",
            "GET /hang",
            "404",
            // It was turned away, so it could be sent again.
            "POST /busy",
            // Nobody knows whether the first attempt has posted it.
            "503",
        ];
        let answers: Vec<_> = answers.collect();
        assert_eq!(answers[..6], expected);
        // The breaker opens on the fifth failure in a row, among the attempts.
        assert_eq!(answers.last().unwrap(), "circuit_open");
        assert!(took >= Duration::from_secs(1), "as `Retry-After` says");
        assert!((5..=7).contains(&retries.load(Ordering::Relaxed)));
    }
}
