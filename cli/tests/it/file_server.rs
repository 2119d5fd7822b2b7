//! A web server for files that counts what it is asked, and can misbehave.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// What a path is answered with.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    File(Vec<u8>),
    /// The file, of which the first answer breaks off after so many bytes.
    CutOnce(Vec<u8>, usize),
    /// The first file, of which the first answer breaks off after so many bytes, and
    /// the second from then on.
    CutThen(Vec<u8>, usize, Vec<u8>),
    Redirect(String),
    Status(u16),
    /// Says that it is this long, and sends nothing.
    Long(u64),
}

/// What was asked: the path, and the value of `Range`.
pub(crate) type Asked = (String, Option<String>);

#[derive(Default)]
struct State {
    answers: HashMap<String, Answer>,
    asked: Vec<Asked>,
}

pub(crate) struct FileServer {
    address: String,
    state: Arc<Mutex<State>>,
}

impl FileServer {
    /// On a port of its own, until the test ends.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let of_thread = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&of_thread);
                thread::spawn(move || answer(stream, &state));
            }
        });
        Self { address, state }
    }

    /// Answers `path` so from now on; returns its URL.
    pub(crate) fn put(&self, path: &str, answer: Answer) -> String {
        let mut state = self.state.lock().unwrap();
        state.answers.insert(path.to_owned(), answer);
        format!("{}{path}", self.address)
    }

    /// What was asked since the last time.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }
}

fn answer(mut stream: TcpStream, state: &Mutex<State>) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
    let mut range = None;
    for line in lines
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
    {
        let (name, value) = line.split_once(':')?;
        if name.eq_ignore_ascii_case("range") {
            range = Some(value.trim().to_owned());
        }
    }
    let answer = {
        let mut state = state.lock().unwrap();
        state.asked.push((path.clone(), range.clone()));
        let answer = state.answers.get(&path).cloned();
        if let Some(Answer::CutOnce(bytes, _) | Answer::CutThen(_, _, bytes)) = &answer {
            let whole = Answer::File(bytes.clone());
            state.answers.insert(path, whole);
        }
        answer.unwrap_or(Answer::Status(404))
    };
    let from = range.and_then(|range| {
        let from = range.strip_prefix("bytes=")?.strip_suffix('-')?;
        from.parse::<usize>().ok()
    });
    let (head, body) = match answer {
        Answer::Status(status) => (format!("{status} So\r\nContent-Length: 0\r\n"), vec![]),
        Answer::Redirect(to) => {
            let head = format!("302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n");
            (head, vec![])
        }
        Answer::Long(length) => (format!("200 OK\r\nContent-Length: {length}\r\n"), vec![]),
        Answer::CutOnce(bytes, at) | Answer::CutThen(bytes, at, _) => {
            let head = format!("200 OK\r\nContent-Length: {}\r\n", bytes.len());
            (head, bytes[..at].to_vec())
        }
        Answer::File(bytes) => match from {
            Some(from) if from >= bytes.len() => {
                ("416 No\r\nContent-Length: 0\r\n".to_owned(), vec![])
            }
            Some(from) => {
                let (length, total) = (bytes.len() - from, bytes.len());
                let head = format!(
                    "206 Partial\r\nContent-Length: {length}\r\nContent-Range: bytes {from}-{}/{total}\r\n",
                    total - 1
                );
                (head, bytes[from..].to_vec())
            }
            None => (
                format!("200 OK\r\nContent-Length: {}\r\n", bytes.len()),
                bytes,
            ),
        },
    };
    let head = format!("HTTP/1.1 {head}Connection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(&body).ok()
}
