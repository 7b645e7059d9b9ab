//! Properties: what must hold whatever the input, over many random cases.

use std::hash::{BuildHasher as _, RandomState};

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngSeed, TestCaseResult, TestError, TestRunner};

/// Checks a property over `cases` random inputs, or as many as `PROPTEST_CASES` says. A case that
/// fails is made as small as it can be. `PROPTEST_RNG_SEED` repeats a run by its seed; a failure
/// says which. Nothing is written to files: a case worth keeping becomes a test of its own.
///
/// # Panics
/// It does not hold: with the smallest case found, why, and the seed.
pub fn check_property<S: Strategy>(
    cases: u32,
    strategy: &S,
    property: impl Fn(S::Value) -> TestCaseResult,
) {
    let mut config = Config {
        failure_persistence: None,
        ..Config::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    let seed = match config.rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => RandomState::new().hash_one("seed"),
    };
    config.rng_seed = RngSeed::Fixed(seed);
    match TestRunner::new(config).run(strategy, property) {
        Ok(()) => {}
        Err(TestError::Fail(why, case)) => {
            panic!("{why}\nthe smallest case: {case:#?}\nagain with PROPTEST_RNG_SEED={seed}")
        }
        Err(TestError::Abort(why)) => panic!("{why}\nagain with PROPTEST_RNG_SEED={seed}"),
    }
}
