//! A step in Rust: counts the primes below the number that Causey gives it.
//!
//! rustc -O primes.rs && causey run flow.toml

use std::{env, fs, path::Path};

fn main() {
    let limit: usize = env::var("CAUSEY_ITEM").expect("a task of a foreach").parse().expect("a number");
    let mut composite = vec![false; limit.max(2)];
    let mut count = 0;
    for number in 2..limit {
        if composite[number] {
            continue;
        }
        count += 1;
        for multiple in (number * number..limit).step_by(number) {
            composite[multiple] = true;
        }
    }
    println!("{count} primes below {limit}");
    let outputs = env::var("CAUSEY_OUTPUTS").expect("a folder for outputs");
    fs::write(Path::new(&outputs).join("count.json"), count.to_string()).expect("the output can be written");
}
