//! Seeds of the simulation, and proof that it can fail.

use causey_tests::simulation::{Plan, live, report};

#[test]
fn many_worlds_keep_every_invariant() {
    let first: u64 = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    let count: u64 = std::env::var("SEEDS").ok().and_then(|seed| seed.parse().ok()).unwrap_or(100);
    for seed in first..first + count {
        let plan = Plan::of(seed);
        let verdict = live(&plan);
        eprintln!("seed {seed}: {} steps, {} turns, {:?}, left {}", verdict.steps, verdict.turns, verdict.lasted, verdict.faults_left);
        assert!(verdict.violations.is_empty(), "{}", report(&plan));
    }
}
