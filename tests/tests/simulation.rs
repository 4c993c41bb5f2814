//! Seeds of the simulation, and proof that it can fail.

use causey_tests::simulation::{Mistake, Plan, Verdict, live, many, report, shrink};

/// Seeds of an ordinary test run.
const SEEDS: u64 = 1_000;

/// Records that show that something was there to be judged.
const KINDS: &str = "LeaderChanged PoolResized SharesChanged SnapshotTaken HistoryStored RunRetired AttemptStarted AttemptFailed
    RetryScheduled AttemptsSucceeded AttemptsHeld SwitchTaken ForeachOpened EventHeld EventTaken RunAdmitted StartSkipped ScheduleFired
    SchedulesPaused SchedulesResumed BackfillStarted BackfillAdvanced BackfillCancelled GangOpened GangCalled MemberJoined GangFormed
    MemberSucceeded GangDissolved TasksGated SignalReceived ApprovalRequested ApprovalDecided ChildEnded StatusSet ResultsSought
    ResultsReused ResultsRemembered ResultsForgotten ModelPublished Notified DeadLettered DeadLetterClosed Ignored RunFinished";

#[test]
fn many_worlds_keep_every_invariant() {
    let lived = many(0, |seed| seed < SEEDS);
    let reports: Vec<&str> = lived.failures.iter().map(|failure| failure.report.as_str()).collect();
    assert!(reports.is_empty(), "{} of {SEEDS} seeds fail\n\n{}", reports.len(), reports.join("\n\n"));
    assert_eq!(lived.worlds, SEEDS);
    let missing: Vec<&str> = KINDS.split_whitespace().filter(|kind| !lived.kinds.contains(*kind)).collect();
    assert!(missing.is_empty(), "no world had a record of {missing:?}");
}

/// Seeds that are lived through twice.
const REPLAYED: u64 = 24;

#[test]
fn a_seed_is_the_same_world_each_time() {
    for seed in 0..REPLAYED {
        let plan = Plan::of(seed);
        let first = live(&plan);
        // Nothing may come from the thread or from what has run on it before.
        let again = std::thread::scope(|scope| scope.spawn(|| live(&plan)).join()).expect("the world does not panic");
        assert_eq!((first.trace, first.steps, first.notes), (again.trace, again.steps, again.notes), "seed {seed}");
    }
}

/// The first world with this mistake in which it shows.
fn caught(mistake: Mistake) -> Verdict {
    let plans = (0..200).map(|seed| Plan::of(seed).with(mistake));
    let mut worlds = plans.map(|plan| live(&plan)).filter(|verdict| !verdict.violations.is_empty());
    worlds.next().unwrap_or_else(|| panic!("{mistake:?} is not noticed"))
}

#[test]
fn a_log_without_compare_and_set_is_noticed() {
    let verdict = caught(Mistake::NoCompareAndSet);
    let broken = |name: &str| verdict.violations.iter().any(|what| what.starts_with(name));
    assert!(broken("I11") || broken("I7"), "{:?}", verdict.violations);
}

#[test]
fn a_failing_seed_is_replayed_by_the_few_faults_that_it_needs() {
    let mistake = Mistake::NoCompareAndSet;
    let plans = (0..400).map(|seed| Plan::of(seed).with(mistake));
    let mut failing = plans.filter(|plan| plan.faults.len() > 5 && !live(plan).violations.is_empty());
    let plan = failing.next().expect("a log without compare-and-set is noticed in one of many worlds");
    let (smallest, verdict) = shrink(&plan);
    assert!((1..=3).contains(&smallest.faults.len()), "of {} faults these are left: {:?}", plan.faults.len(), smallest.faults);
    let numbers: Vec<usize> = smallest.faults.iter().map(|fault| fault.number).collect();
    let again = live(&Plan::of(plan.seed).with(mistake).only(&numbers));
    assert_eq!((again.trace, again.violations), (verdict.trace, verdict.violations));
    let shown = report(&plan);
    let faults: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    let command = format!("replay: make soak SEED={} FAULTS={}", plan.seed, faults.join(","));
    assert!(shown.contains(&command) && shown.contains(&smallest.faults[0].to_string()), "{shown}");
}

#[test]
fn a_store_that_lets_results_be_overwritten_is_noticed() {
    let verdict = caught(Mistake::ResultsOverwritten);
    assert!(verdict.violations.iter().any(|what| what.contains("I8")), "{:?}", verdict.violations);
}

#[test]
fn inputs_that_are_acknowledged_and_not_kept_are_noticed() {
    let verdict = caught(Mistake::InputsForgotten);
    assert!(verdict.violations.iter().any(|what| what.contains("(I1)") || what.contains("I5")), "{:?}", verdict.violations);
}

/// Row 14 of the fault model: nobody leads on a log that has lost its end, and the words say so.
#[test]
fn a_log_that_moved_back_is_refused() {
    let plans = (0..400).map(|seed| Plan::of(seed).with(Mistake::LogCut));
    let refused = plans.map(|plan| live(&plan)).filter(|verdict| !verdict.refusals.is_empty()).take(3).collect::<Vec<_>>();
    assert_eq!(refused.len(), 3, "in some worlds the server is killed");
    for verdict in refused {
        let said = |why: &String| {
            why.contains("CAUSEY_LOG") && ["moved back", "not what it was", "no longer holds"].iter().any(|words| why.contains(words))
        };
        assert!(verdict.refusals.iter().all(said), "{:?}", verdict.refusals);
    }
}
