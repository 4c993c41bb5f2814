//! Writes: a request goes into the inbox like any other input, and its answer is read once a committed turn covers it.

use axum::http::StatusCode;
use causey_artifacts::failpoint;
use causey_protocol::codec::{self, MESSAGE_BYTES_MAX};
use causey_protocol::id::{RequestId, Timestamp};
use causey_protocol::input::{Request, RequestMessage};
use causey_protocol::problem::{Code, Problem};
use causey_protocol::record::Answer;
use causey_protocol::subject;

use super::context::Shared;
use super::refusal::Refusal;
use super::wait;

/// Longest user name and reason, in bytes.
pub(super) const TEXT_BYTES_MAX: usize = 1024;

/// What became of a request.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) answer: Answer,
    /// The log's time just before the request was sent: what is older was not caused by it.
    pub(super) asked: Timestamp,
    /// Whether the same id had been answered before.
    pub(super) repeated: bool,
}

/// Sends a request and waits for its answer. The same `id` again gets the same answer and changes nothing.
pub(super) async fn request(shared: &Shared, id: Option<RequestId>, user: &str, request: Request) -> Result<Answered, Refusal> {
    if user.len() > TEXT_BYTES_MAX {
        return Err(Refusal::malformed(format!("`user` has {} bytes; at most {TEXT_BYTES_MAX} are accepted", user.len())));
    }
    let id = id.unwrap_or_else(|| made_id(shared));
    let asked = {
        let state = shared.read();
        if let Some((_, answer)) = state.requests.get(&id) {
            let answered = Answered { answer: answer.clone(), asked: state.at, repeated: true };
            return refused_or(answered);
        }
        if matches!(request, Request::Submit { .. } | Request::Resume(_))
            && let Some(problem) = state.refuses_runs()
        {
            return Err(problem.into());
        }
        state.at
    };
    let kind = request.kind();
    let message = RequestMessage { id: id.clone(), user: user.to_owned(), request };
    let bytes = codec::encode(&message);
    if bytes.len() > MESSAGE_BYTES_MAX {
        let what = format!("the request has {} bytes; at most {MESSAGE_BYTES_MAX} are accepted", bytes.len());
        return Err(Problem::new(Code::TOO_LARGE, what).hint("put large data into a file or bucket and pass its address").into());
    }
    let sequence = send(shared, kind, bytes).await?;
    failpoint::here("request.stored");
    wait::until(&shared.api.committed, |progress| progress.inbox >= sequence).await.map_err(|_| {
        wait::undecided(&shared.api.committed, "the request").member("request_id", id.as_str()).member("inbox_sequence", sequence)
    })?;
    let answer = shared.read().requests.get(&id).map(|(_, answer)| answer.clone());
    let answer =
        answer.ok_or_else(|| Refusal::malformed("the coordinator could not read the request").hint("see the coordinator's log"))?;
    refused_or(Answered { answer, asked, repeated: false })
}

async fn send(shared: &Shared, kind: &str, bytes: Vec<u8>) -> Result<u64, Refusal> {
    let failed = |error: &dyn std::error::Error| Refusal::broker("put the request into the inbox", error);
    let accepted = shared.api.jetstream.publish(subject::request(kind), bytes.into()).await.map_err(|error| failed(&error))?;
    Ok(accepted.await.map_err(|error| failed(&error))?.sequence)
}

fn refused_or(answered: Answered) -> Result<Answered, Refusal> {
    match answered.answer {
        Answer::Refused(problem) => Err(problem.into()),
        Answer::RunStarted { .. } | Answer::Deployed { .. } | Answer::Cancelling { .. } | Answer::BackfillStarted { .. } | Answer::Done => {
            Ok(answered)
        }
    }
}

/// An id for a client that sent none: the unique end of a NATS inbox.
fn made_id(shared: &Shared) -> RequestId {
    let inbox = shared.api.client.new_inbox();
    let unique = inbox.rsplit('.').next().unwrap_or_default();
    RequestId::new(unique).expect("unique ids of NATS are letters and digits")
}

/// An answer of another kind than asked for: the id belongs to another request.
pub(super) fn other_request() -> Refusal {
    let problem = Problem::new(Code::MALFORMED, "this request_id was used for a request of another kind");
    Refusal::new(StatusCode::CONFLICT, problem.hint("make a new id for every request; repeat it only to repeat the request"))
}
