//! The status socket: threads of its own talk with who asks, so that a slow one keeps nobody waiting but those who ask.
//!
//! A thread reads a question and hands it to the config thread, which gives it what the answer is made of; making text of it and
//! writing it is the thread's again. Each exchange has an end, and there are no more of them at a time than threads.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded};

use super::control::listen_private;
use crate::io::{Waker, poll};
use crate::status::{Answer, Question};

/// What makes an answer, away from the config thread.
pub(super) type Work = Box<dyn FnOnce() -> Answer + Send>;

/// The questions that wait for the config thread.
pub(super) struct StatusSocket {
    questions: Receiver<Asked>,
    waker: Waker,
    stop: Arc<AtomicBool>,
}

/// A question, and where what answers it goes.
struct Asked {
    question: Question,
    work_to: Sender<Work>,
}

/// How long an exchange may take.
#[derive(Clone, Copy)]
struct Patience {
    /// Until the whole question is there.
    question: Duration,
    /// From then until the answer has been read.
    answer: Duration,
}

impl StatusSocket {
    /// Listens at `path`, for root alone.
    pub(super) fn listen(path: &Path) -> io::Result<Self> {
        Self::listen_patiently(path, PATIENCE)
    }

    fn listen_patiently(path: &Path, patience: Patience) -> io::Result<Self> {
        let listener = Arc::new(listen_private(path)?);
        let (asked_to, questions) = bounded(THREADS);
        let socket = Self {
            questions,
            waker: Waker::new()?,
            stop: Arc::default(),
        };
        for _ in 0..THREADS {
            let asker = Asker {
                listener: Arc::clone(&listener),
                asked_to: asked_to.clone(),
                waker: socket.waker.clone(),
                stop: Arc::clone(&socket.stop),
                patience,
            };
            thread::Builder::new()
                .name("status".to_owned())
                .spawn(move || asker.serve())?;
        }
        Ok(socket)
    }

    /// Hands what `answer` makes of each waiting question to who asked it. Never waits.
    pub(super) fn answer(&self, answer: impl Fn(Question) -> Work) {
        self.waker.clear();
        for asked in self.questions.try_iter().take(THREADS) {
            // Who asked may have gone.
            let _ = asked.work_to.send(answer(asked.question));
        }
    }
}

impl AsFd for StatusSocket {
    /// Readable when there may be questions.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waker.as_fd()
    }
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        // Relaxed: the threads have nothing to read that was written before.
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// One of the threads.
struct Asker {
    listener: Arc<UnixListener>,
    asked_to: Sender<Asked>,
    waker: Waker,
    stop: Arc<AtomicBool>,
    patience: Patience,
}

impl Asker {
    fn serve(&self) {
        // Relaxed: see `drop`.
        while !self.stop.load(Ordering::Relaxed) {
            if let Err(error) = poll::readable(&[self.listener.as_fd()], IDLE) {
                tracing::error!(%error, "poll");
                return;
            }
            // Another thread may have been faster.
            if let Ok((stream, _)) = self.listener.accept()
                && let Err(error) = self.exchange(&stream)
            {
                tracing::debug!(%error, "who asked for status went away");
            }
        }
    }

    fn exchange(&self, stream: &UnixStream) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        let line = read_line(stream, Instant::now() + self.patience.question)?;
        let end = Instant::now() + self.patience.answer;
        let answer = match serde_json::from_slice(&line) {
            Ok(question) => self.ask(question, end)?,
            Err(error) => Answer::Error(format!("not a question: {error}")),
        };
        let mut text = serde_json::to_vec(&answer).map_err(io::Error::other)?;
        text.push(b'\n');
        write_all(stream, &text, end)
    }

    fn ask(&self, question: Question, end: Instant) -> io::Result<Answer> {
        let (work_to, work) = bounded(1);
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.asked_to.send(Asked { question, work_to }).map_err(gone)?;
        self.waker.wake();
        let work = work.recv_deadline(end).map_err(io::Error::other)?;
        Ok(work())
    }
}

/// The bytes up to the first newline, the end or [`QUESTION_BYTES_MAX`].
fn read_line(mut stream: &UnixStream, end: Instant) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut piece = [0; 512];
    while line.len() < QUESTION_BYTES_MAX {
        stream.set_read_timeout(Some(left(end)?))?;
        let len = match stream.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        let piece = &piece[..len];
        let newline = piece.iter().position(|byte| *byte == b'\n');
        line.extend_from_slice(&piece[..newline.unwrap_or(len)]);
        if newline.is_some() || len == 0 {
            break;
        }
    }
    Ok(line)
}

fn write_all(mut stream: &UnixStream, mut bytes: &[u8], end: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(left(end)?))?;
        match stream.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(len) => bytes = &bytes[len..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The time until `end`, if there is any.
fn left(end: Instant) -> io::Result<Duration> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(left)
}

/// Exchanges at a time; who asks beyond them waits until one ends.
const THREADS: usize = 4;
/// As long as the command itself waits for an answer ([`crate::status::ask`]).
const PATIENCE: Patience = Patience {
    question: Duration::from_secs(1),
    answer: Duration::from_secs(10),
};
/// The longest sleep of a thread: the end of the process is noticed no later.
const IDLE: Duration = Duration::from_millis(500);
const QUESTION_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::status::{self, Drops};

    const SLOW: Patience = Patience {
        question: Duration::from_mins(1),
        answer: Duration::from_mins(1),
    };

    /// A socket, and a thread in the config thread's place, which answers every question so until the socket is dropped.
    fn served(
        patience: Patience,
        answer: fn(Question) -> Work,
    ) -> (tempfile::TempDir, PathBuf, Arc<AtomicBool>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("status.sock");
        let socket = StatusSocket::listen_patiently(&path, patience).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                poll::readable(&[socket.as_fd()], IDLE).unwrap();
                socket.answer(answer);
            }
        });
        (folder, path, stop)
    }

    fn drops(_: Question) -> Work {
        Box::new(|| Answer::Drops(Drops::default()))
    }

    #[test]
    fn one_who_says_nothing_keeps_no_other_waiting() {
        let (_folder, path, stop) = served(SLOW, drops);
        let silent: Vec<_> = (1..THREADS)
            .map(|_| UnixStream::connect(&path).unwrap())
            .collect();
        for _ in 0..20 {
            assert_eq!(
                status::ask(&path, &Question::Drops).unwrap(),
                Answer::Drops(Drops::default())
            );
        }
        drop(silent);
        stop.store(true, Ordering::Relaxed);
    }

    #[test]
    fn the_config_thread_never_waits_for_who_does_not_read() {
        /// More than a socket holds.
        fn long(_: Question) -> Work {
            Box::new(|| Answer::Error("x".repeat(16 << 20)))
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("status.sock");
        let socket = StatusSocket::listen_patiently(&path, SLOW).unwrap();
        let mut deaf = UnixStream::connect(&path).unwrap();
        deaf.write_all(b"{\"ask\":\"drops\"}\n").unwrap();
        assert!(poll::readable(&[socket.as_fd()], Duration::from_secs(30)).unwrap()[0]);
        socket.answer(long);
        // The answer is on its way, to someone who does not take it; the next one is served meanwhile.
        let mut first = [0];
        deaf.read_exact(&mut first).unwrap();
        let other = thread::spawn(move || status::ask(&path, &Question::Drops).unwrap());
        assert!(poll::readable(&[socket.as_fd()], Duration::from_secs(30)).unwrap()[0]);
        socket.answer(drops);
        assert_eq!(other.join().unwrap(), Answer::Drops(Drops::default()));
        drop(deaf);
    }

    #[test]
    fn who_takes_too_long_is_hung_up_on_and_all_threads_serve_on() {
        let brief = Patience {
            question: Duration::from_millis(50),
            ..SLOW
        };
        let (_folder, path, stop) = served(brief, drops);
        let mut silent: Vec<_> = (0..2 * THREADS)
            .map(|_| UnixStream::connect(&path).unwrap())
            .collect();
        silent[0].write_all(b"{\"ask\"").unwrap();
        for stream in &mut silent {
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            // The end, without an answer; a reset where something of the question was left unread.
            let mut byte = [0];
            assert!(matches!(stream.read(&mut byte), Ok(0)), "hung up on");
        }
        assert!(status::ask(&path, &Question::Drops).is_ok());
        stop.store(true, Ordering::Relaxed);
    }

    #[test]
    fn what_is_no_question_is_told_so() {
        let (_folder, path, stop) = served(SLOW, drops);
        for text in ["{\n".to_owned(), "x".repeat(QUESTION_BYTES_MAX)] {
            let mut stream = UnixStream::connect(&path).unwrap();
            stream.write_all(text.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.contains("not a question"), "{answer}");
        }
        stop.store(true, Ordering::Relaxed);
    }
}
