//! Asking an API server: answers piece by piece, none waited for without a bound, and trouble sorted by who can mend it.

use std::time::Duration;

use futures::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _};
use kube::core::Status;

use super::access::one_line;
use super::servers::{Servers, Turn};

/// Why an answer is not what was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// No answer, or not the whole of it.
    Unreachable(String),
    /// 401: who we are.
    Unauthorized(String),
    /// 403: what we may.
    Forbidden(String),
    /// 404: it does not have that.
    NotFound,
    /// 410: the version that we go on from is forgotten.
    Gone,
    /// 429 or 5xx: not now.
    Busy(String),
    /// It answers in a way that we do not understand, or we cannot even ask.
    Failed(String),
}

/// Sends a GET and returns the answer's body.
///
/// Whoever gets [`Trouble::Unreachable`] finds the next server on its next turn.
pub(super) async fn get(servers: &Servers, path: &str) -> Result<Answer, Trouble> {
    let turn = servers.turn().map_err(Trouble::Failed)?;
    let request = http::Request::get(path)
        .header(http::header::ACCEPT, "application/json")
        .body(Vec::new())
        .map_err(|error| Trouble::Failed(error.to_string()))?;
    let patience = servers.patience();
    let answered = tokio::time::timeout(patience, turn.client.request_stream(request)).await;
    let trouble = match answered {
        Ok(Ok(body)) => {
            return Ok(Answer {
                body: Box::new(body),
                turn,
            });
        }
        Ok(Err(error)) => sort(error),
        Err(_) => Trouble::Unreachable(format!("no answer within {patience:?}")),
    };
    match &trouble {
        Trouble::Unreachable(_) => servers.give_up(turn.number),
        Trouble::Unauthorized(_) => servers.read_again(turn.number).await,
        _ => {}
    }
    Err(match trouble {
        Trouble::Unreachable(reason) => Trouble::Unreachable(format!("{}: {reason}", turn.server)),
        other => other,
    })
}

/// What an error of kube means.
fn sort(error: kube::Error) -> Trouble {
    match error {
        kube::Error::Api(status) => Trouble::of(&status),
        // A token that cannot be read, a plugin that fails: another server would not help.
        kube::Error::Auth(_) | kube::Error::BuildRequest(_) | kube::Error::HttpError(_) => {
            Trouble::Failed(one_line(&error))
        }
        kube::Error::Service(error) if error.is::<kube::client::AuthError>() => {
            Trouble::Failed(format!("our credentials cannot be used: {}", one_line(&*error)))
        }
        // Its own name says nothing to a person.
        kube::Error::Service(error) => Trouble::Unreachable(one_line(&*error)),
        other => Trouble::Unreachable(one_line(&other)),
    }
}

impl Trouble {
    /// What an API server's own words mean.
    pub(super) fn of(status: &Status) -> Self {
        let Status {
            code,
            message,
            reason,
            ..
        } = status;
        match code {
            401 => Self::Unauthorized(message.clone()),
            403 => Self::Forbidden(message.clone()),
            404 => Self::NotFound,
            410 => Self::Gone,
            429 | 500.. => Self::Busy(format!("it answers {code} {reason}: {message}")),
            _ => Self::Failed(format!("it answers {code} {reason}: {message}")),
        }
    }
}

/// The body of an answer, on its way.
pub(super) struct Answer {
    body: Box<dyn AsyncBufRead + Send + Unpin>,
    turn: Turn,
}

impl Answer {
    /// Who answers.
    pub(super) fn server(&self) -> &str {
        &self.turn.server
    }

    /// All of it. Each piece may take as long as the first.
    pub(super) async fn whole(mut self, servers: &Servers) -> Result<Vec<u8>, Trouble> {
        let mut bytes = Vec::new();
        let mut piece = vec![0; PIECE_LEN];
        loop {
            match tokio::time::timeout(servers.patience(), self.body.read(&mut piece)).await {
                Ok(Ok(0)) => return Ok(bytes),
                Ok(Ok(len)) if bytes.len() + len <= ANSWER_LEN_MAX => bytes.extend_from_slice(&piece[..len]),
                Ok(Ok(_)) => {
                    return Err(Trouble::Failed(format!(
                        "an answer is longer than {ANSWER_LEN_MAX} bytes"
                    )));
                }
                Ok(Err(error)) => return Err(self.broken(servers, &error.to_string())),
                Err(_) => return Err(self.broken(servers, "the answer came to a halt")),
            }
        }
    }

    /// The next line, without its end, in place of what is in `line`; `false` at the end of the answer.
    ///
    /// May be dropped and called again with the same `line`.
    pub(super) async fn line(
        &mut self,
        servers: &Servers,
        line: &mut Vec<u8>,
        patience: Duration,
    ) -> Result<bool, Trouble> {
        line.clear();
        let read = tokio::time::timeout(patience, self.body.read_until(b'\n', line)).await;
        match read {
            Ok(Ok(0)) => Ok(false),
            // What the connection's end cut off will come again.
            Ok(Ok(_)) if line.last() != Some(&b'\n') => Ok(false),
            Ok(Ok(_)) => {
                line.pop();
                Ok(true)
            }
            Ok(Err(error)) => Err(self.broken(servers, &error.to_string())),
            Err(_) => Err(self.broken(servers, "it has been silent for longer than it said it would")),
        }
    }

    fn broken(&self, servers: &Servers, reason: &str) -> Trouble {
        servers.give_up(self.turn.number);
        Trouble::Unreachable(format!("{}: {reason}", self.turn.server))
    }
}

const PIECE_LEN: usize = 64 << 10;
/// Far beyond any page of objects.
const ANSWER_LEN_MAX: usize = 1 << 30;
