//! `causey pools`, and words to workers: `drain`, `cordon`, `uncordon`.

use serde_json::{Value, json};

use crate::arguments::{Order, Pools};
use crate::exit::Exit;
use crate::fault::Fault;
use crate::screen::live::{print_json, print_text};
use crate::screen::table;
use crate::session::with_server;
use crate::state::random_hex;

/// Lists the pools.
///
/// # Errors
/// When the server cannot be reached.
pub(crate) async fn run(arguments: &Pools) -> Result<Exit, Fault> {
    with_server(&arguments.place, async |session| {
        let answer: Value = session.client.get(&["pools"], &[]).await?;
        let pools = answer["pools"].as_array().map(Vec::as_slice).unwrap_or_default();
        if arguments.json {
            pools.iter().for_each(print_json);
        } else if pools.is_empty() {
            eprintln!("no pool has a worker, and nothing waits for one");
        } else {
            print_text(&(table::lines(&rows(pools)).join("\n") + "\n"));
        }
        Ok(Exit::Ok)
    })
    .await
}

/// Says a word to the workers of a pool, or to one.
///
/// # Errors
/// When there is no such pool or worker name, or the server cannot be reached.
pub(crate) async fn order(arguments: &Order, order: &str) -> Result<Exit, Fault> {
    with_server(&arguments.place, async |session| {
        let path: Vec<&str> = match arguments.whom.split_once('/') {
            Some((pool, worker)) => vec!["workers", pool, worker, "order"],
            None => vec!["pools", &arguments.whom, "order"],
        };
        let body = json!({"request_id": random_hex(), "order": order});
        let answer: Value = session.client.post(&path, &body).await?;
        if arguments.json {
            print_json(&answer);
        } else {
            eprintln!("{}", said(&arguments.whom, order, answer["workers"].as_u64().unwrap_or_default()));
        }
        Ok(Exit::Ok)
    })
    .await
}

fn said(whom: &str, order: &str, workers: u64) -> String {
    let many = if workers == 1 { "1 worker".to_owned() } else { format!("{workers} workers") };
    match order {
        "drain" => format!("{whom}: {many} will finish what they run and end"),
        "cordon" => format!("{whom}: {many} and those that come will take no more tasks; back again: causey uncordon {whom}"),
        _ => format!("{whom}: {many} will take tasks again"),
    }
}

fn word(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn rows(pools: &[Value]) -> Vec<Vec<String>> {
    let heading = ["POOL", "WORKERS", "SLOTS", "TAKEN", "QUEUED", "WANTED", "OLDEST", "OFFERS"].map(str::to_owned).to_vec();
    let row = |pool: &Value| {
        let workers = match pool["closed_workers"].as_u64().unwrap_or_default() {
            0 => word(&pool["workers"]),
            closed => format!("{} + {closed} closed", word(&pool["workers"])),
        };
        let age = pool["oldest_age_seconds"].as_u64().unwrap_or_default();
        vec![
            word(&pool["pool"]),
            workers,
            word(&pool["slots"]),
            word(&pool["taken"]),
            word(&pool["queued_slots"]),
            word(&pool["wanted_workers"]),
            if age > 0 { format!("{age} s") } else { String::new() },
            offers(pool),
        ]
    };
    std::iter::once(heading).chain(pools.iter().map(row)).collect()
}

/// What the workers have, and what is asked for in vain.
fn offers(pool: &Value) -> String {
    let list = |name: &str| pool[name].as_array().cloned().unwrap_or_default();
    let live = list("shapes").into_iter().filter(|shape| shape["workers"].as_u64().unwrap_or_default() > 0);
    let mut words: Vec<String> = live.map(|shape| format!("{} × {}", shape["workers"], word(&shape["offers"]))).collect();
    let missing: Vec<String> = list("missing").iter().map(word).collect();
    if !missing.is_empty() {
        words.push(format!("nobody offers {}", missing.join(", ")));
    }
    words.join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_says_what_it_has_and_what_is_wanted() {
        let pools = [
            json!({"pool": "default", "workers": 2, "closed_workers": 1, "slots": 4, "taken": 3, "queued_slots": 7, "wanted_workers": 3,
                "oldest_age_seconds": 12, "missing": [], "shapes": [{"workers": 2, "offers": "2 cores, 4000 MB memory"}]}),
            json!({"pool": "gpu", "workers": 0, "closed_workers": 0, "slots": 0, "taken": 0, "queued_slots": 1, "wanted_workers": 1,
                "oldest_age_seconds": 0, "missing": ["gpu≥1"], "shapes": [{"workers": 0, "offers": "1 core"}]}),
        ];
        assert_eq!(
            table::lines(&rows(&pools)),
            [
                "POOL     WORKERS       SLOTS  TAKEN  QUEUED  WANTED  OLDEST  OFFERS",
                "default  2 + 1 closed  4      3      7       3       12 s    2 × 2 cores, 4000 MB memory",
                "gpu      0             0      0      1       1               nobody offers gpu≥1",
            ]
        );
        assert_eq!(said("gpu/w1", "drain", 1), "gpu/w1: 1 worker will finish what they run and end");
    }
}
