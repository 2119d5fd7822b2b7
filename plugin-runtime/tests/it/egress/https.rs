//! Programs that speak TLS through the proxy, and so need to know whom to trust.

use orchestrator_sandbox::{Child, ExitStatus, Grants, spawn};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::unix::pipe::Receiver,
};

use super::{
    programs::{installed, python, run_with},
    *,
};

/// Who vouches for [`HERE`], for a hundred years.
const AUTHORITY: &str = include_str!("tls/authority.pem");
/// Key and certificate of [`HERE`].
const SERVER: &str = include_str!("tls/server.pem");

const SERVE: &str = "
import http.server, ssl, sys
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f'{self.command} {self.path} by {self.request.version()}'.encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1])
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Page)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print(server.server_port, flush=True)
server.serve_forever()
";

const FETCH: &str = "
import ssl, sys, urllib.error, urllib.request
host, port, authority = sys.argv[1:]
def get(name, **trust):
    url = f'https://{name}:{port}/page'
    try:
        return urllib.request.urlopen(url, timeout=15, **trust).read().decode()
    except urllib.error.URLError as error:
        return f'failed {error.reason}'
known = ssl.create_default_context(cafile=authority)
print('trusted', get(host, context=known))
print('unknown', get(host))
print('other', get('evil' + host, context=known))
with open('/etc/ssl/certs/ca-certificates.crt') as bundle:
    print('machine', 'BEGIN CERTIFICATE' in bundle.read())
";

/// The server, its port, and a directory with its files.
async fn server() -> Option<(Child, u16, tempfile::TempDir)> {
    let directory = tempfile::tempdir().expect("a directory");
    let own = directory.path().join("server.pem");
    std::fs::write(&own, SERVER).expect("a file");
    std::fs::write(directory.path().join("authority.pem"), AUTHORITY).expect("a file");
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
    let spec = python()?
        .argument(SERVE)
        .argument(own)
        .descriptor(1, writer);
    let server = spawn(spec).await.expect("it starts");
    let mut said = BufReader::new(Receiver::from_owned_fd(reader).expect("a pipe"));
    let mut port = String::new();
    let read = timeout(PATIENCE, said.read_line(&mut port)).await;
    read.expect("it serves").expect("text");
    Some((server, port.trim().parse().expect("a port"), directory))
}

#[tokio::test]
async fn a_client_of_https_works_with_what_a_grant_of_the_network_gives() {
    let Some((_server, port, directory)) = server().await else {
        return;
    };
    let authority = directory.path().join("authority.pem");
    let python = python().expect("it is installed");
    let spec = python.arguments([FETCH, HERE]).argument(port.to_string());
    let grants = Grants::new().read(&authority);
    let (scene, status, said) = run_with(grants, spec.argument(&authority), port).await;
    assert_eq!(status, ExitStatus::Exited(0), "{said}");
    assert!(said.contains("trusted GET /page by TLSv1.3"), "{said}");
    // It is asked, and answers; nobody vouches for it on this machine.
    assert!(
        said.contains("unknown failed [SSL: CERTIFICATE_VERIFY_FAILED]"),
        "{said}"
    );
    assert!(
        said.contains("other failed Tunnel connection failed: 403"),
        "{said}"
    );
    assert!(said.contains("machine True"), "{said}");
    assert_eq!(scene.egress.usage().connections, 2);
}

#[tokio::test]
async fn curl_speaks_https_through_the_proxy() {
    let (Some(curl), Some((_server, port, directory))) =
        (installed("/usr/bin/curl"), server().await)
    else {
        return;
    };
    let authority = directory.path().join("authority.pem");
    let url = format!("https://{HERE}:{port}/page");
    let fetch = |trust: &[&str]| {
        let grants = Grants::new().read(&authority);
        let spec = installed("/usr/bin/curl").expect("it is installed");
        let spec = spec.arguments(["-q", "-sS", "-m", "15"]).arguments(trust);
        run_with(grants, spec.argument(&url), port)
    };
    drop(curl);
    let path = authority.display().to_string();
    let (_, _, said) = fetch(&["--cacert", &path]).await;
    assert!(said.contains("GET /page by TLSv1.3"), "{said}");
    // 60: it has found its list of authorities, and this one is not on it.
    let (_, status, said) = fetch(&[]).await;
    assert_eq!(status, ExitStatus::Exited(60), "{said}");
}
