//! Seeds of the simulation, and proof that it can fail.

use causey_tests::simulation::many;

/// Seeds of an ordinary test run.
const SEEDS: u64 = 1_000;

#[test]
fn many_worlds_keep_every_invariant() {
    let (lived, failures) = many(0, |seed| seed < SEEDS);
    let reports: Vec<&str> = failures.iter().map(|failure| failure.report.as_str()).collect();
    assert!(reports.is_empty(), "{} of {lived} seeds fail\n\n{}", reports.len(), reports.join("\n\n"));
    assert_eq!(lived, SEEDS);
}
