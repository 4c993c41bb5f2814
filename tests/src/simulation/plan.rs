//! What befalls a simulated world: a list of faults, each at a step, where a step is anything that a process asks of the world
//! outside. A plan follows from its seed; a smaller one is made by leaving faults out.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;

/// Faults fall on steps up to about this one.
const STEPS: u64 = 1_200;

/// Whom a fault befalls: the first of these that takes the step, or one after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    Anyone,
    Coordinator,
    /// The coordinator that wrote the log last.
    Leader,
    Worker,
}

/// What befalls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// What it asks does not arrive.
    QuestionLost,
    /// What it asks is done, but it does not hear so.
    AnswerLost,
    /// It hears late.
    AnswerLate(Duration),
    /// What it asks arrives twice.
    Twice,
    /// It is killed before what it asks has left, and starts again.
    KilledBefore(Duration),
    /// It is killed once what it asks is done, and starts again.
    KilledAfter(Duration),
    /// It is asked to stop, and starts again.
    Stopped(Duration),
    /// It stands still, and does not know.
    Frozen(Duration),
    /// It loses its connection.
    Cut(Duration),
    /// Nothing passes on its connection, and nobody says so.
    Muted(Duration),
    /// Its wall clock is set, by so many seconds.
    ClockSet(i64),
    /// The NATS server is killed and starts again.
    ServerKilled(Duration),
    /// Somebody deletes tasks from the queue.
    TasksLost,
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its place among those of its seed.
    pub number: usize,
    pub step: u64,
    pub whom: Whom,
    pub what: What,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fault {}, from step {}, {:?}: {:?}", self.number, self.step, self.whom, self.what)
    }
}

/// What a world is made with on purpose to see that the simulation notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// The log takes a turn whatever it should follow.
    NoCompareAndSet,
    /// A result is written over the one that is there.
    ResultsOverwritten,
    /// Inputs are acknowledged and not kept.
    InputsForgotten,
    /// What was acknowledged is lost from the end of the log.
    LogCut,
}

/// A world's fate.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub faults: Vec<Fault>,
    pub mistake: Option<Mistake>,
}

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        // Not the generator of the world, whose choices stay the same when faults are left out.
        let mut chance = Rng::with_seed(seed ^ 0x005e_ed0f_fa17);
        // Some worlds are quiet, some are terrible.
        let count = [3, 8, 16, 30][chance.usize(..4)];
        let mut faults: Vec<Fault> = (0..chance.usize(1..=count)).map(|_| fault(&mut chance)).collect();
        faults.sort_by_key(|fault| fault.step);
        (0..).zip(&mut faults).for_each(|(number, fault)| fault.number = number);
        Self { seed, faults, mistake: None }
    }

    /// The same world with these of its faults only, by their numbers.
    #[must_use]
    pub fn only(mut self, numbers: &[usize]) -> Self {
        self.faults.retain(|fault| numbers.contains(&fault.number));
        self
    }

    /// The command that lives through it again, as far as its seed and faults say it.
    #[must_use]
    pub fn command(&self) -> String {
        let numbers: Vec<String> = self.faults.iter().map(|fault| fault.number.to_string()).collect();
        let faults = if numbers.is_empty() { "none".to_owned() } else { numbers.join(",") };
        format!("make soak SEED={} FAULTS={faults}", self.seed)
    }

    /// The same world with a mistake.
    #[must_use]
    pub fn with(mut self, mistake: Mistake) -> Self {
        self.mistake = Some(mistake);
        self
    }
}

fn fault(chance: &mut Rng) -> Fault {
    let whom = [Whom::Anyone, Whom::Coordinator, Whom::Leader, Whom::Leader, Whom::Worker, Whom::Worker][chance.usize(..6)];
    let brief = Duration::from_millis(chance.u64(1..1_000));
    let long = Duration::from_millis(chance.u64(500..20_000));
    let what = match chance.u32(..25) {
        0..=2 => What::QuestionLost,
        3..=6 => What::AnswerLost,
        7 => What::AnswerLate(brief),
        8 => What::AnswerLate(long),
        9..=10 => What::Twice,
        11..=12 => What::KilledBefore(brief),
        13..=14 => What::KilledAfter(brief),
        15 => What::KilledAfter(long),
        16 => What::Stopped(brief),
        17..=18 => What::Frozen(long),
        19 => What::Cut(brief),
        20 => What::Cut(long),
        21 => What::Muted(long),
        22 => What::ClockSet(chance.i64(-3_600..3_600)),
        23 => What::TasksLost,
        _ => What::ServerKilled(brief),
    };
    Fault { number: 0, step: chance.u64(..STEPS), whom, what }
}
