//! Dead letters: when something is given up on it is recorded and told about once, and kept within bounds of number and age. What it
//! was about is put on its way again by whoever asks for it; here the letter is only closed.

use causey_protocol::id::{NotificationId, RunId, Timestamp, hash_fields};
use causey_protocol::letter::{Dead, DeadLetter, LetterEnd, Original};
use causey_protocol::problem::{Code, Problem};
use causey_protocol::record::{Answer, Position, Record, Topic};
use causey_protocol::subject;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use crate::engine::Decider;
use crate::run::TaskRef;
use crate::state::State;

/// Letters of each kind that are kept; the oldest go first.
pub(crate) const LETTERS_MAX: usize = 500;

/// While so many messages lie here, further ones are not told about: whoever floods a stream shall not flood subscribers.
const TOLD_MAX: usize = 100;

/// How long a letter is kept, in microseconds (30 days).
const KEPT_MICROS: u64 = 30 * 24 * 3_600 * 1_000_000;

/// A dead letter and when it became one. Its id is the place of its record in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    pub at: Timestamp,
    pub letter: DeadLetter,
}

fn is_task(letter: &Letter) -> bool {
    matches!(letter.letter.what, Dead::Task { .. })
}

impl State {
    pub(crate) fn keep_letter(&mut self, id: Position, letter: DeadLetter) {
        let letter = Letter { at: self.at, letter };
        let kind = is_task(&letter);
        self.dead_letters.insert(id, letter);
        let mut alike = self.dead_letters.iter().filter(|(_, letter)| is_task(letter) == kind);
        let oldest = alike.next().map(|(id, _)| *id);
        if alike.count() >= LETTERS_MAX
            && let Some(oldest) = oldest
        {
            self.dead_letters.remove(&oldest);
        }
    }

    pub(crate) fn forget_old_letters(&mut self) {
        let before = Timestamp(self.at.0.saturating_sub(KEPT_MICROS));
        while let Some(id) = self.dead_letters.first().filter(|(_, letter)| letter.at < before).map(|(id, _)| *id) {
            self.dead_letters.remove(&id);
        }
    }
}

impl Decider<'_> {
    /// A message that cannot be read.
    pub(crate) fn malformed(&mut self, subject: String, sequence: u64, because: String, original: Original) {
        let told = self.state.dead_letters.values().filter(|letter| !is_task(letter)).count() < TOLD_MAX;
        let id = self.position();
        let name = subject::parse_event(&subject).map_or_else(|| "inbox".into(), |source| source.to_string());
        let data = json!({"letter": id.to_string(), "kind": "message", "because": because, "subject": subject, "sequence": sequence});
        let what = Dead::Message { subject, sequence, original };
        self.emit(Record::DeadLettered(Box::new(DeadLetter { what, because })));
        if told {
            let notification = NotificationId(hash_fields("causey dead letter v1", &[id.to_string().as_bytes()]));
            // No run is concerned.
            let (topic, run) = (Topic::DeadLetter, RunId(Uuid::nil()));
            self.emit(Record::Notified { id: notification, topic, name, run, data });
        }
    }

    /// A task that is given up on because it takes its workers with it.
    pub(crate) fn poisoned(&mut self, run: RunId, task: &TaskRef, problem: &Problem) {
        let Some((found, flow)) = self.run_and_flow(run) else { return };
        let Some(state) = found.task(task) else { return };
        let (id, topic) = (task.id(&flow), Topic::DeadLetter);
        let (attempt, worker, because) = (state.attempt, state.worker.clone(), problem.message.clone());
        let name = flow.definition().name.to_string();
        let data = json!({
            "letter": self.position().to_string(), "kind": "task", "because": because, "run": run, "run_name": found.start.name,
            "flow": name, "step": id.step, "task": task.path.task_name(task.visit), "attempt": attempt, "worker": worker,
        });
        let TaskRef { step, path, visit } = task.clone();
        let what = Dead::Task { run, step, path, visit, attempt, worker };
        self.emit(Record::DeadLettered(Box::new(DeadLetter { what, because })));
        self.emit(Record::Notified { id: id.notification_id(run, topic.as_str(), 0), topic, name, run, data });
    }

    /// The place that the next record will have.
    fn position(&self) -> Position {
        Position { sequence: self.state.sequence, index: self.state.index }
    }

    pub(crate) fn close_letter(&mut self, letter: Position, end: LetterEnd, user: String) -> Answer {
        if !self.state.dead_letters.contains(&letter) {
            let problem = Problem::new(Code::NOT_FOUND, format!("no dead letter {letter}"));
            return Answer::Refused(problem.hint("list them: causey dead-letters ls"));
        }
        self.emit(Record::DeadLetterClosed { letter, end, user });
        Answer::Done
    }
}
