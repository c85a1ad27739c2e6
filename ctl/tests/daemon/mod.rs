//! A workspace whose daemon is a few canned answers behind a real HTTP server on a unix socket.

use agentfs_api::Workspace;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

/// What to answer to `"METHOD /path"`: a status and a body.
type Answers = BTreeMap<String, (u16, Vec<u8>)>;

pub struct Daemon {
    directory: tempfile::TempDir,
    /// The workspace's root, with a `.git` and a `src/`.
    pub root: PathBuf,
    /// The operator's socket.
    pub socket: PathBuf,
    answers: Arc<Mutex<Answers>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Daemon {
    /// A workspace with nobody to ask.
    pub fn none() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap().join("repo");
        std::fs::create_dir_all(root.join(".git")).unwrap();
        std::fs::create_dir_all(root.join("src")).unwrap();
        // The test's environment differs from the program's, but not in what follows the base.
        let id = Workspace::at(&root).unwrap().runtime_dir;
        let socket = directory.path().join("run").join(id.file_name().unwrap());
        let socket = socket.join("operator.sock");
        let (answers, requests) = Default::default();
        Self { directory, root, socket, answers, requests }
    }

    /// A workspace with a daemon that answers nothing but its status yet.
    pub fn start() -> Self {
        let daemon = Self::none();
        std::fs::create_dir_all(daemon.socket.parent().unwrap()).unwrap();
        let listener = UnixListener::bind(&daemon.socket).unwrap();
        let (answers, requests) = (daemon.answers.clone(), daemon.requests.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                serve(stream, &answers, &requests);
            }
        });
        let status = serde_json::json!({
            "root": daemon.root, "mountpoint": "/m", "state_dir": "/s", "pid": 1, "since": 0,
            "version": "0", "base_version": 3, "live_runs": 0, "leases": 0, "waiting": 0,
            "pending": 0, "config": agentfs_core::config::Config::default(), "mount_method": "none",
        });
        daemon.answers("GET /v1/status", status)
    }

    pub fn answers(self, request: &str, body: impl serde::Serialize) -> Self {
        self.says(request, 200, &serde_json::to_vec(&body).unwrap())
    }

    pub fn refuses(self, request: &str, status: u16, body: impl serde::Serialize) -> Self {
        self.says(request, status, &serde_json::to_vec(&body).unwrap())
    }

    pub fn says(self, request: &str, status: u16, body: &[u8]) -> Self {
        self.answers.lock().unwrap().insert(request.to_owned(), (status, body.to_vec()));
        self
    }

    /// `agentctl` with these words, in the workspace's root.
    pub fn agentctl(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agentctl"));
        command
            .args(words)
            .current_dir(&self.root)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("TZ", "UTC")
            .env("AGENTFS_RUNTIME_DIR", self.directory.path().join("run"))
            .env("AGENTFS_STATE_DIR", self.directory.path().join("state"));
        command
    }

    /// Runs it to its end.
    pub fn run(&self, words: &[&str]) -> Ended {
        Ended::from(self.agentctl(words).output().unwrap())
    }

    /// What was asked, as `METHOD /path BODY`, without the questions for the status.
    pub fn requests(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        requests.iter().filter(|request| !request.contains("/v1/status")).cloned().collect()
    }
}

/// How a program ended and what it wrote.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

fn serve(stream: UnixStream, answers: &Mutex<Answers>, requests: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while reader.read_line(&mut head).is_ok_and(|read| read > 2) {}
    let Some((method, path)) =
        head.split_once(' ').and_then(|(method, rest)| Some((method, rest.split(' ').next()?)))
    else {
        return;
    };
    let length = head.lines().find_map(|line| {
        line.to_lowercase().strip_prefix("content-length:").map(|n| n.trim().parse().unwrap())
    });
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).unwrap();
    let body = String::from_utf8(body).unwrap();
    requests.lock().unwrap().push(format!("{method} {path} {body}").trim_end().to_owned());
    let known = answers.lock().unwrap().get(&format!("{method} {path}")).cloned();
    let (status, body) = known.unwrap_or_else(|| {
        let refusal = serde_json::json!({ "code": "not_found", "message": "no such thing" });
        (404, refusal.to_string().into_bytes())
    });
    let mut stream = reader.into_inner();
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    // A client that has gone away needs no answer.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
}
